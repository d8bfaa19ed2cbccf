"""python -m worker.query: computes vectors of texts and images until its standard input ends.

It takes the worker's settings of HTTP, fetching and decoding. Messages come on standard input and leave on standard
output (see worker.query.service); everything for people is on standard error.
"""

from __future__ import annotations

from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers; see worker.__main__.
    from worker.query.service import serve_queries  # noqa: PLC0415

    return serve_queries()


if __name__ == "__main__":
    program.run(main)
