"""`embedder search`: the rows of a result that are nearest to a text or an image."""
