"""Values that a row goes without: an id, a subset or a thumbnail that cannot be used. The log says it once a chunk."""

from __future__ import annotations

from common.logs import log


class LeftOut:
    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, what: str, where: str, problem: str) -> None:
        """Note that the row at `where` goes without its `what`, because the value has this problem."""
        self._rows[what] = self._rows.get(what, 0) + 1
        self._examples.setdefault(what, f"{where}: {problem}")

    def log(self, manifest: str) -> None:
        """Log the number of rows and an example for each kind of value."""
        for what, rows in self._rows.items():
            log.warning(
                "values_left_out",
                manifest=manifest,
                value=what,
                rows=rows,
                example=self._examples[what],
                message=f"these rows are embedded without their {what}, which cannot be used as it is",
            )
