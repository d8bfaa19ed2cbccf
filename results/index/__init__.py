"""The index beside the result: built, measured against exact search, and published."""
