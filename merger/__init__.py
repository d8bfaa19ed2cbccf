"""All chunks to one file."""
