"""The merge Job: all chunks of a run become one result."""
