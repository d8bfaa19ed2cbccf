"""Writes on the condition that an object has not changed since it was seen, also on stores without such conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import log
from common.store.contract import ObjectExists
from common.store.s3.client import RequestUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.store.contract import ObjectStat
    from common.store.s3.prefix import S3Prefix


class ConditionalWrites:
    """Writes that replace only the object that was seen.

    When the store refuses conditions, a write becomes two steps: a look, then the write. A second writer between the
    two steps is overwritten. That loses nothing, because all writers of a key of a run write the same rows.
    """

    def __init__(self, prefix: S3Prefix) -> None:
        self._prefix = prefix
        self._are_supported = True

    def write(self, key: str, send: Callable[[Mapping[str, str]], None], *, replacing: ObjectStat | None) -> None:
        """Call `send` with the SDK's arguments for this condition: the object is `replacing`, absent if None.

        Raises ObjectExists when another object is there, and whatever `send` raises.
        """
        if self._are_supported:
            try:
                send({"IfNoneMatch": "*"} if replacing is None else {"IfMatch": f'"{replacing.version}"'})
            except RequestUnsupported as error:
                log.warning("store_without_conditional_writes", error=str(error))
                self._are_supported = False
            else:
                return
        if self._prefix.stat(key) != replacing:
            raise ObjectExists(str(self._prefix.location(key)))
        send({})
