"""Coverage-guided fuzzing of plain_jpeg.c with libFuzzer, as README.md of the parent folder explains it."""
