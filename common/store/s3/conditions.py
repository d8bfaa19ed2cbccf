"""Writes on the condition that an object has not changed since it was seen, also on stores without such conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import StoreAccessDenied
from common.logs import log
from common.store.contract import AssemblyGone, ObjectExists
from common.store.s3.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.store.contract import ObjectStat
    from common.store.s3.prefix import S3Prefix

CONDITION_ATTEMPTS = 2
"""The number of times that a write is sent with a condition that the store calls false and a look shows to be true.

Another program may have written and deleted the object in between; a second time shows a fault of the store.
"""


class ConditionalWrites:
    """Writes of one operation (PutObject or CompleteMultipartUpload) that replace only the object that was seen.

    A write looks at the object first, and then sends the condition with the write, for writers that come in between.
    Some stores ignore conditions or refuse them. There a second writer between the two steps is overwritten. That loses
    nothing, because all writers of a key of a run write the same rows.
    """

    def __init__(self, prefix: S3Prefix, operation: str) -> None:
        self._prefix, self._operation = prefix, operation
        self._are_sent = True

    def stop_sending(self, because: object) -> None:
        """Write in two steps from now on, and log why."""
        if self._are_sent:
            self._are_sent = False
            log.warning("store_without_conditional_writes", operation=self._operation, error=str(because))

    def write(self, key: str, send: Callable[[Mapping[str, str]], None], *, replacing: ObjectStat | None) -> None:
        """Call `send` with the SDK's arguments for this condition: the object is `replacing`, absent if None.

        Raises ObjectExists when another object is there, and whatever `send` raises.
        """
        self._look(key, replacing)
        if not self._are_sent:
            try:
                send({})
            except StoreAccessDenied:  # which may mean that the bucket keeps the object of a quicker writer
                self._look(key, replacing)
                raise
            return
        refusal: Exception | None = None
        for _ in range(CONDITION_ATTEMPTS):
            try:
                send({"IfNoneMatch": "*"} if replacing is None else {"IfMatch": f'"{replacing.version}"'})
            except (RequestRefused, StoreAccessDenied) as error:
                refusal = error
                break
            except ObjectExists as error:
                self._look(key, replacing)
                refusal = error
            else:
                return
        self._look(key, replacing)
        try:
            send({})
        except AssemblyGone:  # the store has ended the upload with its refusal
            self.stop_sending(refusal)
            raise
        self.stop_sending(refusal)

    def _look(self, key: str, expected: ObjectStat | None) -> None:
        """Raise ObjectExists unless the store has the expected object, no object if None."""
        if self._prefix.stat(key) != expected:
            raise ObjectExists(str(self._prefix.location(key)))
