"""A line of the benchmarks' output."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Ratio(NamedTuple):
    what: str
    value: float
    goal: str
    """The value that the project wants, "" if the line only informs."""
    detail: str

    def line(self) -> str:
        # Values below 1 are compared with goals of 0.1 and 0.25, so they need a third digit.
        value = f"{self.value:.3f}" if abs(self.value) < 1 else f"{self.value:.2f}"
        return f"{self.what:52}{value:>8}  {self.goal:9}  {self.detail}"


def show(ratios: Iterable[Ratio]) -> None:
    for ratio in ratios:
        print(ratio.line(), flush=True)
