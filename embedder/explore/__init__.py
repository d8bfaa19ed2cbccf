"""`embedder explore`: a page on this machine that shows a result."""
