"""A result in another form: Parquet, NumPy, FAISS or USearch. `export` is the story from start to end."""
