"""A sample of images, fetched and decoded by the worker's own code, one source after the other."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import EmbedderError, SourceUnavailable, TooManyFailures
from common.findings import Finding, ImagesFacts, SourceFacts, Subject, Verdict, fault
from common.format.reasons import HELD_BACK, Reason
from worker.decoders.job import Lost
from worker.failure_advice import advice_for
from worker.fetch.image_fetcher import ImageFetcher
from worker.fetch.patience import Patience
from worker.fetch.transport import ReadFile
from worker.manifest.excerpts import excerpt
from worker.pipeline import UNANSWERED
from worker.rows import ImageFailed
from worker.spool import opened_spool
from worker.square_maker import SquareMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.decoders.decoders import Decoders
    from worker.decoders.job import Job
    from worker.fetch.fetched import Fetched
    from worker.fetch.relayed_proxies import RelayedProxies
    from worker.manifest.manifest import ManifestChunk
    from worker.rows import HeldImages, Row
    from worker.settings import FetchSettings, HttpSettings
    from worker.stage_times import StageTimes

SAMPLE = 20
"""Number of images that are tried."""

IMAGE_SIZE = 224
"""Side length in pixels of the squares. The model's own may differ, which changes the time a little."""

PATIENCE = Patience(attempts=2, host_seconds=5.0, request_seconds=10.0)
"""For how long an image is tried. A worker is more patient, see EMBEDDER_SOURCE_PATIENCE_SECONDS."""

MOST_EXAMPLES = 5
"""Number of reasons of a source, the most frequent ones, of which an image is shown."""

UNUSABLE_ROW = {Reason.INVALID_URL, Reason.MALFORMED_ROW, Reason.URL_TOO_LONG, Reason.NO_SOURCE}
"""Reasons for which the list is to blame, and no source."""

UNUSABLE_ADVICE = (
    "the list or its column of URLs is wrong: name the column in EMBEDDER_URL_COLUMN, or give another list in "
    "EMBEDDER_MANIFEST_URI"
)

PACE_ADVICE = (
    "a site refuses requests beyond a pace of its own, and a worker keeps to that pace; the site decides how long the "
    "run takes, so neither more workers nor more requests at the same time make it faster; images whose turn does not "
    "come are deferred, and a top-up fetches them"
)


class _Fetched(NamedTuple):
    seconds: float
    length: int
    """Size of the image in bytes."""


class _TimedFetcher(ImageFetcher["Job"]):
    """The worker's fetcher, which also notes how long each image took."""

    @cached_property
    def fetched(self) -> dict[int, _Fetched]:
        """The images that have arrived, by the position of the row."""
        return {}

    async def fetch(self, row: Row) -> Fetched[Job]:
        began = time.monotonic()
        fetched = await super().fetch(row)
        self.fetched[row.position] = _Fetched(time.monotonic() - began, fetched.image.length)
        return fetched


class _Room:
    """Slots for squares that nobody encodes: a slot is free again as soon as its square is there."""

    def __init__(self, slot_count: int, *, descriptor: int) -> None:
        self.slot_count, self.image_size = slot_count, IMAGE_SIZE
        os.ftruncate(descriptor, slot_count * IMAGE_SIZE * IMAGE_SIZE * 3)
        self._free = list(range(slot_count))

    def take_slot(self) -> int | None:
        return self._free.pop() if self._free else None

    def return_slot(self, slot: int) -> None:
        self._free.append(slot)


class ImageCheck:
    """Tries the rows of `sample` at `sources` in their order. A source is asked for what those before it lack."""

    def __init__(
        self,
        sample: ManifestChunk,
        *,
        sources: tuple[str, ...],
        folder: Path | None,
        decoders: Decoders,
        proxies: RelayedProxies,
        fetch: FetchSettings,
        http: HttpSettings,
        inflight_bytes: int,
        times: StageTimes,
    ) -> None:
        self._sample, self._sources, self._folder = sample, sources, folder
        self._decoders, self._proxies, self._times = decoders, proxies, times
        self._inflight_bytes = inflight_bytes
        self._held: HeldImages | None = None
        self._fetch, self._http = PATIENCE.shorten(fetch, http)
        self._good: dict[int, _Fetched] = {}
        self._failed: dict[int, ImageFailed] = {}
        self._unanswered: EmbedderError | None = None
        self._has_faulty_host = False
        self._by_source: list[tuple[str, Sequence[Row], dict[int, ImageFailed]]] = []
        """Each source with the rows that it was asked for, and those that failed."""

    def run(self, *, max_failure_ratio: float) -> Finding:
        """Try the images, and return what came of them. Raises the errors that would end a chunk for any image."""
        with opened_spool(self._sample.held, self._fetch.max_image_bytes) as self._held:
            asyncio.run(self._try_sources())
        return self._finding(max_failure_ratio)

    async def _try_sources(self) -> None:
        room = _Room(SAMPLE + self._decoders.spare_slots, descriptor=self._decoders.squares)
        with self._decoders.listening() as failed:
            self._decoders.open_room(room)
            await self._wait_for_decoders(failed)
            rows = self._sample.rows
            for source in self._sources:
                if rows:
                    rows = await self._try_source(source, rows, room=room, failed=failed)

    async def _wait_for_decoders(self, failed: asyncio.Future[None]) -> None:
        """Wait until a decoder answers, so that its start is no part of an image's time. Raises the error of decoders
        that cannot start."""
        asked = asyncio.ensure_future(
            self._decoders.get(ReadFile(str(Path(os.devnull) / "absent"), 0, 0), None)  # type: ignore[arg-type]
        )
        await asyncio.wait(_both(asked, failed), return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            await asyncio.wait([asked])
            failed.result()
        with suppress(Lost):
            asked.result()

    async def _try_source(
        self, source: str, rows: Sequence[Row], *, room: _Room, failed: asyncio.Future[None]
    ) -> list[Row]:
        """Try the rows at one source, and return those that the next source is asked for.

        It is not asked for an image that has arrived and cannot be decoded, as little as by a worker.
        """
        failures: dict[int, ImageFailed] = {}
        fetcher = _TimedFetcher(
            self._decoders,
            self._fetch,
            self._http,
            inflight_bytes=self._inflight_bytes,
            sources=(source,),
            folder=self._folder,
            proxies=self._proxies,
            held=self._held if source == "bytes" else None,
            times=self._times,
        )
        squares: set[int] = set()

        def put(position: int, slot: int) -> None:
            squares.add(position)
            room.return_slot(slot)
            self._decoders.give_slots()

        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(error: BaseException | None) -> None:
            if error is not None and not ended.done():
                ended.set_exception(error)

        failed.add_done_callback(lambda done: end(done.exception()))
        async with fetcher:
            maker = SquareMaker(fetcher, rows, most_under_way=len(rows), put=put, fail=failures.__setitem__, end=end)
            settling = asyncio.ensure_future(maker.settle_all())
            await asyncio.wait([settling, ended], return_when=asyncio.FIRST_COMPLETED)
            settling.cancel()
            await asyncio.wait([settling])
        if ended.done() and (error := ended.exception()) is not None:
            if not isinstance(error, SourceUnavailable):
                raise error
            # Another source may still have the images, as for a worker.
            self._unanswered = error
            for row in rows:
                if row.position not in squares:
                    failures.setdefault(row.position, ImageFailed(Reason.CONNECTION_FAILED, str(error)))
        elif (broken := None if settling.cancelled() else settling.exception()) is not None:
            raise broken
        self._has_faulty_host |= fetcher.has_faulty_host
        self._good |= {position: fetcher.fetched[position] for position in squares}
        self._failed |= failures
        self._by_source.append((source, rows, failures))
        return [row for row in rows if row.position not in fetcher.fetched]

    def _finding(self, max_failure_ratio: float) -> Finding:
        unusable = self._sample.failures
        reasons = Counter(failed.reason for position, failed in self._failed.items() if position not in self._good)
        reasons.update(failure.reason for failure in unusable)
        sampled = len(self._sample.rows) + len(unusable)
        good, lost = len(self._good), reasons.total()
        has_heard = good or self._has_faulty_host
        is_unanswered = not has_heard and bool(reasons) and reasons.keys() <= UNANSWERED
        said = self._unanswered if is_unanswered else None
        facts = ImagesFacts(
            sampled=sampled,
            good=good,
            reasons={str(reason): count for reason, count in reasons.most_common()},
            sources=tuple(_source_facts(*each, said=said) for each in self._by_source),
            mean_bytes=statistics.fmean(each.length for each in self._good.values()) if good else 0,
            median_fetch_ms=1000 * statistics.median(each.seconds for each in self._good.values()) if good else 0,
            mean_decode_ms=1000 * self._times.snapshot().decode_worked / good if good else 0,
            is_held_back=any(failed.reason in HELD_BACK for _, _, each in self._by_source for failed in each.values()),
        )
        named = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        found = f"{good} of {sampled} sampled images can be fetched and decoded"
        if is_unanswered:
            why = f" ({excerpt(str(said))})" if said else ""
            return fault(
                Subject.IMAGES,
                SourceUnavailable(
                    f"no source answered for any of {lost} sampled images: {named}{why}; check the network"
                ),
                facts,
            )
        held_back = sum(reasons[reason] for reason in HELD_BACK)
        if good and held_back and lost - held_back <= max_failure_ratio * sampled:
            # A worker would wait for these images, as a check does not.
            return Finding(
                subject=Subject.IMAGES,
                verdict=Verdict.WARNING,
                message=f"{found}, the others failed: {named}{self._example()}; {PACE_ADVICE}",
                facts=facts,
            )
        if lost > max_failure_ratio * sampled:
            return fault(
                Subject.IMAGES,
                TooManyFailures(
                    f"{lost} of {sampled} sampled images failed, the limit of a chunk is {max_failure_ratio:.0%}: "
                    f"{named}{self._example()}; {self._advice(reasons)}"
                ),
                facts,
            )
        if lost:
            return Finding(
                subject=Subject.IMAGES,
                verdict=Verdict.WARNING,
                message=f"{found}, the others failed: {named}{self._example()}; a chunk may lose "
                f"{max_failure_ratio:.0%}, and the ledger names each image that is lost",
                facts=facts,
            )
        return Finding(subject=Subject.IMAGES, verdict=Verdict.OK, message=found, facts=facts)

    def _example(self) -> str:
        """Return an unusable row, which belongs to no source. The facts of the sources hold examples of images."""
        for failure in self._sample.failures:
            return f"; for example {excerpt(failure.detail)}"
        return ""

    def _advice(self, reasons: Counter[Reason]) -> str:
        """Return what helps against so many lost images: against the most frequent reason."""
        if reasons.keys() <= UNUSABLE_ROW:
            return UNUSABLE_ADVICE
        ((reason, _),) = reasons.most_common(1)
        urls = [
            row.url
            for row in self._sample.rows
            if (failed := self._failed.get(row.position)) is not None and failed.reason is reason
        ]
        return advice_for(reason, urls)


def _both(*futures: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    """Return futures of several kinds as one list, for `asyncio.wait`."""
    return list(futures)


def _source_facts(
    source: str, rows: Sequence[Row], failures: dict[int, ImageFailed], *, said: EmbedderError | None
) -> SourceFacts:
    """Return what a source did. Its examples leave out the error `said`, which the finding's message holds."""
    counts = Counter(failed.reason for failed in failures.values())
    examples: dict[Reason, str] = {}
    for row in rows:
        failed = failures.get(row.position)
        if failed is not None and failed.detail != str(said):
            examples.setdefault(failed.reason, f"{excerpt(row.url)}: {excerpt(failed.detail)}")
    shown = [
        f"{reason}, {examples[reason]}" if len(counts) > 1 else examples[reason]
        for reason, _ in counts.most_common(MOST_EXAMPLES)
        if reason in examples
    ]
    example = "; ".join(shown)
    return SourceFacts(
        source=source,
        asked=len(rows),
        good=len(rows) - len(failures),
        reasons={str(reason): count for reason, count in counts.most_common()},
        example=example,
    )
