"""What all programs share: errors and exit codes, settings, logs, store, object keys and file formats."""
