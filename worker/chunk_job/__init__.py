"""One chunk from start to end. `job` is the order of the steps, `chunk_in_store` the chunk's place in the store.

`failures_file` is the list of failed images that a failing chunk leaves there. `checkpoints` keep what a chunk has
embedded before it is finished, and `checkpoint_writer` is the thread that writes them.
"""
