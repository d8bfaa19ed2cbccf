"""Answers queries for `embedder search` and `embedder explore`: vectors of texts and images, and small pictures."""
