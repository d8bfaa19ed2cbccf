"""What is made of a result: an index, other formats, a report. Nothing here imports torch."""
