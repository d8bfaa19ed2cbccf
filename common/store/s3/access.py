"""The access check: what a store can do, and what this program may do there, found out with a small object.

    ListObjectsV2   the permission to list, and small objects of programs that were killed
    PutObject       the permission to write
    PutObject       the same key again, on the condition that there is no object: 412 shows that conditions hold
    GetObject       the permission to read, and which of the two writes the store has kept
    DeleteObjects   the permission to delete, many objects with one request
    HeadObject      the object is gone, and the store says so

The key is one of its own for each program: thousands of pods start at the same time, and some stores accept one write a
second of the same key. But where objects stay, because the programs may not delete or the bucket keeps its objects, the
first program leaves an object under KEPT_KEY. The later ones try their access with that one, and leave nothing.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import EmbedderError, SettingsError, StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.settings import S3Settings, read_settings
from common.store.contract import ObjectAbsent, ObjectExists, StoreAbilities
from common.store.s3.errors import ObjectProtected, RequestRefused
from common.store.s3.listing import list_objects
from common.store.s3.object_range import read_object
from common.store.s3.request import ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from common.store.contract import ObjectStat
    from common.store.s3.conditions import ConditionalWrites
    from common.store.s3.deletion import Deletion
    from common.store.s3.listing import Listed
    from common.store.s3.prefix import S3Prefix

PROBE_PREFIX = ".access/"
"""The start of the keys of the small objects. Nothing of a run lies there."""

KEPT_KEY = f"{PROBE_PREFIX}-kept"
"""The key of the one small object that stays. It is the first one in a list."""

KEPT_SECONDS = 2.0
"""The time in seconds for which its write may fail until a program tries an object of its own. Some stores accept one
write a second of the same key."""

FIRST, SECOND = b"access check, first write\n", b"access check, second write\n"

LEFTOVER_AGE = timedelta(hours=1)
"""The age of a small object that shows that its program has died: more than clocks of pods and stores differ, as
requests are refused at a difference of 15 minutes."""

LEFTOVERS_AT_ONCE = 100
"""The number of old small objects that one access check removes, so that it stays quick."""

TRIAL_SECONDS = 8.0
"""The time in seconds from the first failure of a request that a store may not know until the check goes on without."""

READ_SECONDS = (0.5, 1.0)
"""The pauses in seconds before an object that is absent right after its write is read again."""

ROUNDS = 3
"""The number of small objects that are tried while other programs delete them: a merge that ends clears up."""


class _Answer(NamedTuple):
    """What a store says about itself with its answer to a write."""

    server: str
    encryption: str


class AccessCheck:
    """Checks the access to the run's prefix once. What it finds also decides how `puts` and `deletion` go on."""

    def __init__(self, prefix: S3Prefix, *, puts: ConditionalWrites, deletion: Deletion) -> None:
        self._prefix, self._puts, self._deletion = prefix, puts, deletion

    def run(self) -> StoreAbilities:
        """Return what was found, and log it. Raises StoreAccessDenied, SettingsError and StoreUnavailable."""
        listed = list(self._list())
        is_kept = any(each.stat.key == KEPT_KEY for each in listed)
        leftovers = _old(listed)
        for _ in range(ROUNDS):
            try:
                found = (self._try_kept(leftovers) if is_kept else None) or self._try_all(leftovers)
            except ObjectAbsent:
                continue
            log.info(
                "store_checked",
                store=found.store,
                conditional_writes=_yes_or_no(found.conditional_writes),
                batch_delete=_yes_or_no(found.batch_delete),
                delete=_yes_or_no(found.may_delete),
                encryption=found.encryption or "none reported",
            )
            return found
        raise StoreUnavailable(f"{self._prefix.location(PROBE_PREFIX)}: a small object is absent right after its write")

    def _list(self) -> Iterator[Listed]:
        try:
            return list_objects(self._prefix, PROBE_PREFIX, most=LEFTOVERS_AT_ONCE)
        except RequestRefused as refused:
            raise StoreAccessDenied(
                f"the store does not list its objects: {refused}; check the bucket's name and that the endpoint is one "
                "of S3"
            ) from refused

    def _try_all(self, leftovers: Sequence[str]) -> StoreAbilities:
        """Write, write again, read and delete. Raises ObjectAbsent when another program has deleted the object."""
        key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
        answer = self._write(key)
        return self._read_and_delete(key, answer, leftovers, is_conditional=self._try_condition(key))

    def _try_kept(self, leftovers: Sequence[str]) -> StoreAbilities | None:
        """Do the same with the object that stays. Return None where that does not show the permission to write."""
        location = self._prefix.location(KEPT_KEY)
        is_conditional = False
        try:
            ask(location, lambda: self._put(KEPT_KEY, FIRST, {"IfNoneMatch": "*"}), patience_seconds=KEPT_SECONDS)
        except ObjectExists:
            is_conditional = True
        except ObjectProtected as protected:
            self._puts.stop_sending(protected)
        except (EmbedderError, ObjectAbsent):
            return None
        else:
            self._puts.stop_sending("the store ignores If-None-Match")
        answer = ask(
            location,
            lambda: _answer_of(
                self._prefix.client.head_object(Bucket=self._prefix.bucket, Key=self._prefix.full_key(KEPT_KEY))
            ),
        )
        return self._read_and_delete(KEPT_KEY, answer, leftovers, is_conditional=is_conditional)

    def _read_and_delete(
        self, key: str, answer: _Answer, leftovers: Sequence[str], *, is_conditional: bool
    ) -> StoreAbilities:
        content = self._read(key)
        if content not in (FIRST, SECOND):
            raise StoreUnavailable(
                f"{self._prefix.location(key)} reads back {content[:100]!r}, written was {FIRST!r}; the store, or a "
                "proxy before it, changes what is written"
            )
        if is_conditional and content == SECOND:
            is_conditional = False
            self._puts.stop_sending("the store answered 412 and replaced the object all the same")
        refusal = self._try_to_delete(key, leftovers)
        if refusal:
            log.warning("no_permission_to_delete", error=refusal)
            if key != KEPT_KEY:
                self._leave_one()
        return StoreAbilities(
            store=answer.server,
            conditional_writes=is_conditional,
            batch_delete=self._deletion.in_batches,
            may_delete=not refusal,
            delete_refusal=refusal,
            encryption=answer.encryption,
        )

    def _read(self, key: str) -> bytes:
        """Return the object's content. Raises ObjectAbsent when it is not there for some seconds."""
        for pause_seconds in READ_SECONDS:
            try:
                return read_object(self._prefix.location(key)).data
            except ObjectAbsent:
                time.sleep(pause_seconds)
        return read_object(self._prefix.location(key)).data

    def _write(self, key: str) -> _Answer:
        try:
            return ask(self._prefix.location(key), lambda: self._put(key, FIRST, {}))
        except RequestRefused as refused:
            if encryption := read_settings(S3Settings).s3_encryption:
                raise SettingsError(
                    f"EMBEDDER_S3_ENCRYPTION is {encryption}, and the store refuses to write so: {refused}; set what "
                    "the bucket supports, or unset it"
                ) from refused
            raise StoreAccessDenied(f"the store refuses a plain write of a small object: {refused}") from refused

    def _try_condition(self, key: str) -> bool:
        """Return whether the store refuses to replace the object on the condition that there is none."""
        try:
            ask(
                self._prefix.location(key),
                lambda: self._put(key, SECOND, {"IfNoneMatch": "*"}),
                patience_seconds=TRIAL_SECONDS,
            )
        except ObjectExists:
            return True
        except (EmbedderError, ObjectAbsent) as error:  # the same write without a condition has just succeeded
            self._puts.stop_sending(error)
        else:
            self._puts.stop_sending("the store ignores If-None-Match")
        return False

    def _put(self, key: str, data: bytes, condition: Mapping[str, str]) -> _Answer:
        answer = self._prefix.client.put_object(
            Bucket=self._prefix.bucket,
            Key=self._prefix.full_key(key),
            Body=data,
            ContentMD5=base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
            **condition,  # type: ignore[arg-type]
        )
        return _answer_of(answer)

    def _leave_one(self) -> None:
        with suppress(EmbedderError, ObjectAbsent, ObjectExists):  # another program leaves it at the same time
            ask(self._prefix.location(KEPT_KEY), lambda: self._put(KEPT_KEY, FIRST, {}), patience_seconds=0)

    def _try_to_delete(self, key: str, leftovers: Sequence[str]) -> str:
        """Delete the object. Return why that is not possible, "" when the object is gone."""
        for _ in range(2):
            try:
                self._deletion.delete([key], batch_patience_seconds=TRIAL_SECONDS)
            except (StoreAccessDenied, RequestRefused) as refused:
                return str(refused)
            if self._is_gone(key):
                self._delete_leftovers(leftovers)
                return ""
            if not self._deletion.in_batches:
                break
            self._deletion.stop_batches("the object is still there after DeleteObjects has succeeded")
        return f"{self._prefix.location(key)} is still there after it was deleted"

    def _delete_leftovers(self, leftovers: Sequence[str]) -> None:
        try:
            self._deletion.delete(leftovers)
        except StoreAccessDenied as refused:  # other rules held when they were written
            log.warning("leftovers_stay", objects=len(leftovers), error=str(refused))

    def _is_gone(self, key: str) -> bool:
        return self._prefix.stat_when(key, lambda found: found is None) is None


def leftovers_of_checks(prefix: S3Prefix) -> Sequence[ObjectStat]:
    """Return all small objects of access checks, also those of checks that go on at this moment."""
    return [each.stat for each in list_objects(prefix, PROBE_PREFIX)]


def _old(listed: Sequence[Listed]) -> Sequence[str]:
    """Return the keys of small objects that stayed although their programs have ended."""
    old = datetime.now(UTC) - LEFTOVER_AGE
    found = (each.stat.key for each in listed if each.modified is not None and each.modified < old)
    return [key for key in found if key != KEPT_KEY]


def _answer_of(answer: Any) -> _Answer:  # noqa: ANN401 - one of several of the SDK's types
    server = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
    return _Answer(server or "unknown", answer.get("ServerSideEncryption", ""))


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
