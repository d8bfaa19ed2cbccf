"""`embedder check`: what a run will need, tried before the first GPU second."""
