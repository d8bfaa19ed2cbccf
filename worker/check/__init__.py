"""Tries what a run will need, before it is started: the store, the manifest, some images and the model."""
