"""One chunk from start to end. `job` is the story, `chunk_in_store` the chunk's place in the store."""
