"""One chunk from start to end. `job` is the order of the steps, `chunk_in_store` the chunk's place in the store."""
