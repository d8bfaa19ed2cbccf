"""What both programs must agree on: errors and exit codes, store, object keys, chunk file, logs."""
