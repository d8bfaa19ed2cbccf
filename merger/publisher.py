"""The result in the store: found there or made from the chunks, and verified either way."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.result_file import read_result
from common.logs import log
from common.run.keys import RESULT_KEY
from common.store.contract import AssemblyRefused, ObjectExists
from merger.assemble import CopyFailed, assemble
from merger.finding import MergeRefused, check_same_run
from merger.plan import CopyPart, plan_equal_parts, plan_parts
from merger.progress import Step
from merger.sample import KeptRows, Sample, choose_rows, stretches
from merger.sources import DigestDiffers
from merger.stale_index import delete_stale_index
from merger.verify import Result, ResultDiffers, verify_full, verify_metadata, verify_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.provenance import Provenance
    from common.run.summary import Verification
    from common.store.contract import ObjectStat
    from merger.plan import Part
    from merger.progress import Progress
    from merger.settings import MergerSettings
    from merger.sources import Sources


FEW_PARTS = 1000
"""The largest number of parts that every store takes. S3 takes 10,000, and Scaleway 1,000."""


class Published(NamedTuple):
    """A verified result in the store."""

    stat: ObjectStat
    assembly: str
    """How the vectors got into the result: `server-side`, `streaming`, or `found` where it was there already."""
    verification: Verification


class _Way(Enum):
    """The ways to make the result, in the order in which they are tried."""

    COPIES = "server-side"
    """The store copies the vectors, in parts of different sizes."""
    EQUAL_COPIES = "server-side in equal parts"
    """The store copies what it can in parts of the same size. Tried where the store refuses other parts."""
    UPLOADS = "streaming"
    """Everything passes through this process."""


class Publisher:
    """Makes sure that the right result is in the store, in one attempt of the merge."""

    def __init__(
        self,
        sources: Sources,
        provenance: Provenance,
        settings: MergerSettings,
        progress: Progress,
        *,
        few_parts: int = FEW_PARTS,
    ) -> None:
        self._store = sources.store
        self._limits, self._few_parts = sources.store.part_limits, few_parts
        self._layout = sources.layout
        self._sources = sources
        self._provenance = provenance
        self._settings = settings
        self._progress = progress
        self._location = self._store.location(RESULT_KEY)

    def publish(self, *, replacing: ObjectStat | None) -> Published:
        """Return the result in the store if it is the right one, else make it, verify it and publish it.

        `replacing` is the result that was there before the chunks were listed. Another one may hold rows of chunk files
        that another merge has deleted since, so it is not replaced.

        A result that cannot be verified is deleted again. Raises StoreUnavailable when the result cannot be made;
        MergeRefused when a result of another run is there or a chunk has vectors without norm 1; DigestDiffers when a
        chunk is damaged; and ObjectExists or AssemblyGone when another merge was quicker.
        """
        existing = self._store.stat(RESULT_KEY)
        if existing is not None:
            self._check_same_run(existing)
            if (found := self._verify_existing(existing)) is not None:
                return found
        if existing != replacing:
            raise ObjectExists(self._location)
        ways = {"auto": list(_Way), "server-side": [_Way.COPIES, _Way.EQUAL_COPIES], "streaming": [_Way.UPLOADS]}
        problem: Exception | None = None
        tried: list[str] = []
        for way in ways[self._settings.assembly]:
            if way is _Way.EQUAL_COPIES and not (isinstance(problem, AssemblyRefused) and self._copies_equal_parts()):
                continue
            for _ in range(2):
                try:
                    return self._make(way, replacing=existing)
                except (CopyFailed, AssemblyRefused, ResultDiffers) as error:
                    problem = error
                    tried.append(way.value)
                    log.warning("assembly_failed", assembly=way.value, error=str(error))
                existing = self._store.stat(RESULT_KEY)
                # Fewer parts are larger, and take more memory: so they come last.
                if way is not _Way.UPLOADS or not isinstance(problem, AssemblyRefused) or not self._has_fewer_parts():
                    break
        raise StoreUnavailable(
            f"{self._location} could not be made ({', then '.join(tried)}): {problem}; nothing was left there, "
            "and the chunks are as they were"
        ) from problem

    def _check_same_run(self, existing: ObjectStat) -> None:
        """Raise MergeRefused where the object is a result of another run. Any other object may be replaced."""
        try:
            with self._store.open(RESULT_KEY, existing.size) as file:
                found = read_result(file, name=self._location)
        except ChunkInvalid:
            return
        check_same_run(self._provenance, found.provenance, location=self._location)

    def _verify_existing(self, existing: ObjectStat) -> Published | None:
        """Return the existing result, None where it is not the right one."""
        if existing.size != self._layout.size:
            return None
        sample = self._choose_sample(self._plan(_Way.COPIES))
        try:
            verification = self._verify(self._in_store(existing), sample, KeptRows())
        except ResultDiffers as error:
            log.info("result_replaced", because=str(error))
            return None
        except (DigestDiffers, MergeRefused):
            self._withdraw(existing)
            raise
        return Published(existing, "found", verification)

    def _make(self, way: _Way, *, replacing: ObjectStat | None) -> Published:
        """Assemble, verify and publish the result. Where it can be read only once it is published, verify it then."""
        parts = self._plan(way)
        sample = self._choose_sample(parts)
        kept = KeptRows(stretches(self._layout, sample))
        verification = None
        self._progress.begin(parts)
        with self._store.assemble(RESULT_KEY, size=self._layout.size, replacing=replacing) as being_made:
            assemble(
                parts,
                self._sources,
                being_made,
                kept=kept,
                concurrency=self._settings.merge_concurrency,
                progress=self._progress,
            )
            self._sources.check_unchanged()
            if being_made.is_readable:
                verification = self._verify(Result(self._layout.size, being_made.read, self._sources), sample, kept)
            self._progress.step = Step.PUBLISHING
            delete_stale_index(self._store)
            published = being_made.publish()
        if verification is None:
            try:
                verification = self._verify(self._in_store(published), sample, kept)
            except (ResultDiffers, DigestDiffers, MergeRefused):
                # A chunk file that a top-up has replaced meanwhile says nothing about the result.
                self._sources.check_unchanged()
                self._withdraw(published)
                raise
        return Published(published, "streaming" if way is _Way.UPLOADS else "server-side", verification)

    def _withdraw(self, published: ObjectStat) -> None:
        """Delete the result, unless another merge has replaced it."""
        found = self._store.stat(RESULT_KEY)
        if found is not None and found.version == published.version:
            self._store.delete([RESULT_KEY])

    def _in_store(self, result: ObjectStat) -> Result:
        def read(start: int, length: int) -> bytes:
            return self._store.read(RESULT_KEY, start, length)

        return Result(result.size, read, self._sources)

    def _plan(self, way: _Way) -> Sequence[Part]:
        if way is _Way.COPIES:
            return plan_parts(self._layout, self._limits)
        return plan_equal_parts(self._layout, self._limits, copying=way is _Way.EQUAL_COPIES)

    def _has_fewer_parts(self) -> bool:
        """Plan fewer parts from now on. Return whether that changes the plan of uploads."""
        parts = len(self._plan(_Way.UPLOADS))
        self._limits = self._limits._replace(max_count=self._few_parts)
        return parts > self._few_parts

    def _copies_equal_parts(self) -> bool:
        return any(isinstance(part, CopyPart) for part in self._plan(_Way.EQUAL_COPIES))

    def _choose_sample(self, parts: Sequence[Part]) -> Sample:
        """Return the rows of the result to compare. A full verification needs none: it reads all rows."""
        if self._settings.verify == "full":
            return Sample()
        seed = self._provenance.fingerprint
        return choose_rows(self._layout, parts, random_rows=self._settings.verify_rows, seed=seed)

    def _verify(self, result: Result, sample: Sample, kept: KeptRows) -> Verification:
        self._progress.step = Step.VERIFYING
        try:
            return self._verify_once(result, sample, kept)
        except (ResultDiffers, DigestDiffers, MergeRefused) as error:
            # The store may have sent a wrong byte although the object is right.
            log.warning("verifying_again", because=str(error))
            return self._verify_once(result, sample, kept)

    def _verify_once(self, result: Result, sample: Sample, kept: KeptRows) -> Verification:
        verify_metadata(result)
        if self._settings.verify == "full":
            return verify_full(result, concurrency=self._settings.merge_concurrency)
        return verify_sample(result, sample, kept=kept, concurrency=self._settings.merge_concurrency)
