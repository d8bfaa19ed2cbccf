"""`embedder export`: a result in another form."""
