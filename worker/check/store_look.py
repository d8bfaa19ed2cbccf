"""What the store allows and can do, tried without leaving anything there."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.findings import Finding, StoreFacts, Subject, Verdict
from common.store import open_store
from common.store.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.store.contract import Store, StoreAbilities


class TriedStore(NamedTuple):
    store: Store
    abilities: StoreAbilities


def try_store(run_uri: str) -> TriedStore:
    """Return the store after its access check. Raises what `Store.check_access` and `FolderStore.check_room` raise."""
    store = open_store(run_uri)
    with _folders_as_before(run_uri):
        abilities = store.check_access()
        if isinstance(store, FolderStore):
            store.check_room()
        return TriedStore(store, abilities)


def store_finding(place: str, abilities: StoreAbilities) -> Finding:
    facts = StoreFacts(
        abilities={
            "store": abilities.store or "unknown",
            "conditional writes": "yes" if abilities.conditional_writes else "no: a write is a look and a write",
            "batch delete": "yes" if abilities.batch_delete else "no: a request for each object",
            "may delete": "yes" if abilities.may_delete else f"no: {abilities.delete_refusal}",
            "encryption": abilities.encryption or "none reported",
        },
        supported={
            "conditional writes": abilities.conditional_writes,
            "batch delete": abilities.batch_delete,
            "may delete": abilities.may_delete,
        },
    )
    found = f"{place} ({abilities.store or 'unknown store'}) can be listed, read and written"
    if abilities.may_delete:
        return Finding(subject=Subject.STORE, verdict=Verdict.OK, message=found, facts=facts)
    return Finding(
        subject=Subject.STORE,
        verdict=Verdict.WARNING,
        message=f"{found}, but nothing can be deleted ({abilities.delete_refusal}); the small object "
        "of this check stays, and the merge would leave the chunk files: allow it to delete objects, or set "
        "EMBEDDER_KEEP_CHUNKS",
        facts=facts,
    )


def free_bytes(run_uri: str) -> int | None:
    """Return the free space in bytes on the disk of a run in a folder, None for a store of another kind."""
    root = _folder_of(run_uri)
    if root is None:
        return None
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(place).free


def _folder_of(run_uri: str) -> Path | None:
    if "://" in run_uri and not run_uri.startswith("file://"):
        return None
    return Path(run_uri.removeprefix("file://")).expanduser()


@contextmanager
def _folders_as_before(run_uri: str) -> Iterator[None]:
    """Remove the folders of a run that the block has made and that are empty."""
    root = _folder_of(run_uri)
    if root is None:
        yield
        return
    absent = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with suppress(OSError):  # another program may use it by now
                folder.rmdir()
