"""The copy of the earlier result, which the store makes by itself where it can."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from common.errors import StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.parallel import ordered
from common.run.keys import EARLIER_RESULT_KEY
from common.store.contract import AssemblyRefused
from merger.earlier_result import read_earlier_result
from merger.plan import COPY_BYTES, UPLOAD_BYTES

if TYPE_CHECKING:
    from common.store.contract import Assembly, ObjectStat, Store
    from merger.earlier_result import EarlierResult
    from merger.progress import Traffic
    from merger.settings import MergerSettings

COMPARED_BYTES = 2048
"""Size in bytes of each range that is compared: one vector."""

AHEAD_BYTES = 32 << 20
"""Largest number of bytes in memory while the copy passes through this process."""


def keep_earlier_result(store: Store, earlier: EarlierResult, settings: MergerSettings, traffic: Traffic) -> ObjectStat:
    """Return a copy of the result under EARLIER_RESULT_KEY. A copy that is there already is kept, if it is equal.

    Raises ObjectExists or AssemblyGone when another merge gets in the way, and StoreUnavailable.
    """
    existing = store.stat(EARLIER_RESULT_KEY)
    found = read_earlier_result(store, existing)
    if (
        found is not None
        and (found.header, found.contents) == (earlier.header, earlier.contents)
        and _is_equal(store, earlier.stat, found.stat, settings, traffic)
    ):
        return found.stat
    return copy_object(store, earlier.stat, EARLIER_RESULT_KEY, replacing=existing, settings=settings, traffic=traffic)


def copy_object(
    store: Store,
    source: ObjectStat,
    key: str,
    *,
    replacing: ObjectStat | None,
    settings: MergerSettings,
    traffic: Traffic,
) -> ObjectStat:
    """Copy an object, in the ways that the setting `assembly` allows, and return the copy once it is compared.

    A wrong copy is deleted. Raises ObjectExists, AssemblyGone and StoreUnavailable.
    """
    ways = {"auto": (True, False), "server-side": (True,), "streaming": (False,)}[settings.assembly]
    problem: StoreUnavailable | StoreAccessDenied = StoreUnavailable("there is no way to copy")
    for by_store in ways:
        try:
            with store.assemble(key, size=source.size, replacing=replacing) as copy:
                _fill(copy, store, source, by_store=by_store, concurrency=settings.merge_concurrency, traffic=traffic)
                published = copy.publish()
        except (StoreUnavailable, StoreAccessDenied, AssemblyRefused) as error:
            problem = error
        else:
            if _is_equal(store, source, published, settings, traffic):
                return published
            if store.stat(key) == published:
                store.delete([key])
            replacing = None
            problem = StoreUnavailable(f"the store has copied {store.location(source.key)} wrongly")
        log.warning("copy_failed", object=store.location(key), by_store=by_store, error=str(problem))
    raise StoreUnavailable(f"{store.location(key)} could not be made: {problem}") from problem


def _fill(
    copy: Assembly, store: Store, source: ObjectStat, *, by_store: bool, concurrency: int, traffic: Traffic
) -> None:
    """Write all parts. They have the same size, the last one apart: every store accepts that."""
    limits = store.part_limits
    wanted = COPY_BYTES if by_store else UPLOAD_BYTES
    size = max(min(wanted, limits.max_bytes), limits.min_bytes, -(-source.size // limits.max_count))

    def copy_part(part: tuple[int, int]) -> None:
        number, start = part
        length = min(size, source.size - start)
        if by_store:
            copy.copy(number, start, source, start, length)
            traffic.add(copied_by_store=length)
        else:
            copy.upload(number, start, store.read(source.key, start, length))
            traffic.add(read=length, uploaded=length)

    parts = enumerate(range(0, source.size, size), start=1)
    for _ in ordered(
        copy_part, parts, concurrency=concurrency, cost=lambda _: 0 if by_store else size, budget=AHEAD_BYTES
    ):
        pass
    if not by_store and store.stat(source.key) != source:
        raise StoreUnavailable(f"{store.location(source.key)} was replaced while it was read")


def _is_equal(store: Store, source: ObjectStat, copy: ObjectStat, settings: MergerSettings, traffic: Traffic) -> bool:
    """Compare the sizes, the beginnings, the ends of parts and random ranges."""
    if copy.size != source.size:
        return False
    last = max(0, source.size - COMPARED_BYTES)
    drawn = random.Random(source.version)
    starts = {0, last, *(drawn.randint(0, last) for _ in range(settings.verify_rows))}
    for bound in range(COPY_BYTES, source.size, COPY_BYTES):
        starts |= {bound - COMPARED_BYTES, min(bound, last)}

    def is_equal(start: int) -> bool:
        length = min(COMPARED_BYTES, source.size - start)
        traffic.add(read=2 * length)
        return store.read(source.key, start, length) == store.read(copy.key, start, length)

    return all(ordered(is_equal, sorted(starts), concurrency=settings.merge_concurrency))
