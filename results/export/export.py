"""An export from start to end: plan, write, read back, publish."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.errors import ConfigError, ResourceExhausted, StoreUnavailable
from common.format.provenance import program_version
from common.logs import redact_url
from common.process.limits import find_memory
from common.process.resources import exhausted, written_file
from common.run.keys import RESULT_KEY
from results.export.blocks import blocks_of
from results.export.destination import FACTS_FILE
from results.export.encoding import bounds_of, encoding_for, no_bounds
from results.export.form import Plan
from results.export.formats import FACTS, Format, form_of
from results.export.number_type import NumberType
from results.export.progress import Step
from results.export.rows_file import RowsFileReading, rows_file
from results.export.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from results.export.destination import Destination
    from results.export.encoding import Bounds
    from results.export.form import Block, Form
    from results.export.progress import Progress
    from results.result import Result

WORKING_BYTES = 300 << 20
"""Memory in bytes that a form takes beside what it holds whole: blocks, texts and libraries."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a person asks for."""

    target: Format
    number_type: NumberType
    is_file: bool
    """Whether the vectors' file alone is wanted, and not a folder."""
    rows_per_file: int = 0
    """Number of rows in each file of a Parquet export; 0: all rows in one file."""


@dataclass(frozen=True)
class Exported:
    """An export that was verified and published."""

    rows: int
    size: int
    """Size of all its files in bytes."""
    rows_compared: int
    files: tuple[str, ...]
    scale: float | None
    """What an int8 number is multiplied with, None for other numbers and for forms with an encoding of their own."""


def is_file_name(name: str, target: Format) -> bool:
    """Return whether a destination with this name is one file. Raises ConfigError for the ending of another form."""
    for other, facts in FACTS.items():
        if name.lower().endswith(facts.endings):
            if other is target:
                return True
            raise ConfigError(
                f"{name} has the ending of a {other} export, and --to is {target}; choose another DEST or another form"
            )
    return False


def export(result: Result, order: Order, destination: Destination, progress: Progress) -> Exported:
    """Export all rows of the result.

    Raises ConfigError when the destination is taken, ResourceExhausted when memory or disk do not suffice, and
    StoreUnavailable when the result is replaced meanwhile or the export does not read back as it was written.
    """
    destination.check_is_free()
    form = form_of(order.target)
    plan = _plan(result, order, no_bounds(result.dimensions))
    _check_memory(form.memory_bytes(plan), order, progress)
    if order.number_type is NumberType.INT8:
        plan = _plan(result, order, _measure(result, progress))
    with destination.work_folder() as folder:
        _check_room(folder, plan)
        samples = Samples(plan.rows)
        writing = _Writing(
            result, form, plan, folder, samples, progress, with_texts=not (order.is_file or form.has_texts)
        )
        with written_file(folder.parent), _library_errors(folder.parent):
            writing.write()
            if not order.is_file:
                facts = json.dumps(plan.facts, indent=2, ensure_ascii=False)
                (folder / FACTS_FILE).write_text(f"{facts}\n", "utf-8")
        writing.verify(name=destination.name)
        _check_unchanged(result)
        paths = sorted(folder.iterdir())
        exported = Exported(
            plan.rows,
            sum(path.stat().st_size for path in paths),
            len(samples),
            tuple(path.name for path in paths),
            _scale(order, plan.bounds),
        )
        destination.publish(folder, progress)
    return exported


def _plan(result: Result, order: Order, bounds: Bounds) -> Plan:
    facts = {
        "format": order.target.value,
        "dtype": order.number_type.value,
        "scale": _scale(order, bounds),
        "rows": result.row_count,
        "dimensions": result.dimensions,
        "result": redact_url(result.store.location(RESULT_KEY)),
        "fingerprint": result.provenance.fingerprint,
        "table_digest": result.summary.table_digest,
        "provenance": asdict(result.provenance),
        "exported_by": program_version(),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Plan(
        rows=result.row_count,
        dimensions=result.dimensions,
        has_ids=result.has_ids,
        number_type=order.number_type,
        bounds=bounds,
        rows_per_file=order.rows_per_file,
        facts=facts,
    )


def _scale(order: Order, bounds: Bounds) -> float | None:
    if order.number_type is not NumberType.INT8 or order.target not in {Format.PARQUET, Format.NPY}:
        return None
    return encoding_for(order.number_type, bounds).scale


def _check_memory(needed: int, order: Order, progress: Progress) -> None:
    """Say what memory an index takes. Raises ResourceExhausted when there is not that much."""
    memory = find_memory()
    if not needed or memory is None:
        return
    takes = f"a {order.target} export holds the whole index in memory, about {_gigabytes(needed + WORKING_BYTES)}"
    free = f"{_gigabytes(memory.available_bytes)} are free"
    if needed + WORKING_BYTES > memory.available_bytes:
        raise ResourceExhausted(
            f"{takes}, and {free}; use a machine with more memory, a smaller --dtype, or --to parquet or npy, which "
            "need little memory"
        )
    progress.note(f"{takes}; {free}")


def _check_room(folder: Path, plan: Plan) -> None:
    free = shutil.disk_usage(folder).free
    if plan.vectors_bytes > free:
        raise ResourceExhausted(
            f"{folder.parent} has {_gigabytes(free)} free, and the vectors alone take "
            f"{_gigabytes(plan.vectors_bytes)}; make room there, or choose a smaller --dtype"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _measure(result: Result, progress: Progress) -> Bounds:
    progress.begin(Step.MEASURING, result.row_count)

    def vectors() -> Iterator[NDArray[np.float32]]:
        for _, block in result.vector_blocks():
            yield block
            progress.advance(len(block))

    return bounds_of(vectors(), dimensions=result.dimensions)


@dataclass(frozen=True)
class _Writing:
    """The writing of the files, and their reading back."""

    result: Result
    form: Form
    plan: Plan
    folder: Path
    samples: Samples
    progress: Progress
    _: KW_ONLY
    with_texts: bool
    """Whether the URLs and ids get a file of their own."""

    def write(self) -> None:
        self.progress.begin(Step.WRITING, self.plan.rows)
        texts = rows_file(self.folder, self.plan) if self.with_texts else nullcontext()
        with texts as add_texts:
            self.form.write(self.folder, self.plan, self._blocks(add_texts))

    def _blocks(self, add_texts: Callable[[Block], None] | None) -> Iterator[Block]:
        for block in blocks_of(self.result):
            self.samples.keep(block)
            if add_texts is not None:
                add_texts(block)
            yield block
            self.progress.advance(len(block.urls))
        if self.form.memory_bytes(self.plan):
            self.progress.begin(Step.SAVING, 0)

    def verify(self, *, name: str) -> None:
        """Compare the files with the samples. Raises StoreUnavailable with `name` where they differ."""
        self.progress.begin(Step.VERIFYING, len(self.samples))
        try:
            texts = RowsFileReading(self.folder, self.plan) if self.with_texts else None
            reading = self.form.open(self.folder, self.plan)
            self.samples.check(reading, texts, name=name, progress=self.progress.advance)
        except (ValueError, RuntimeError, OSError) as error:  # the libraries' own
            raise exhausted(error) or StoreUnavailable(
                f"{name} cannot be read back: {error}; nothing is published, look at the disk and try again"
            ) from error


@contextmanager
def _library_errors(place: Path) -> Iterator[None]:
    """Raise ResourceExhausted when a library says in an error of its own that a resource ran out."""
    try:
        yield
    except RuntimeError as error:
        ours = exhausted(error)
        if ours is None:
            raise
        raise ResourceExhausted(f"{place}: {ours}") from error


def _check_unchanged(result: Result) -> None:
    if result.store.stat(RESULT_KEY) != result.finished.result:
        raise StoreUnavailable(
            f"{result.store.location(RESULT_KEY)} was replaced while it was exported; export it again"
        )
