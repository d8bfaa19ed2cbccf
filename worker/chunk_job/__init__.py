"""One chunk from start to end. `job` is the order of the steps, `chunk_in_store` the chunk's place in the store.

`failures_file` is the list of failed images that a failing chunk leaves there.
"""
