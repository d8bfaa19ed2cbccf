"""The client of the query program, which has the model and fetches images for `embedder search` and `explore`."""
