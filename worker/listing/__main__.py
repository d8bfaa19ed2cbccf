"""python -m worker.listing DEST: writes the manifest of the worker's settings as a Parquet list."""

from __future__ import annotations

from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers; see worker.__main__.
    from worker.listing.command import write_list  # noqa: PLC0415

    return write_list()


if __name__ == "__main__":
    program.run(main)
