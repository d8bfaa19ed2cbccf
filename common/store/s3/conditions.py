"""Writes on the condition that an object is still as it was seen, on stores that know such conditions and on others."""

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
    """Where a store turns out to know no conditions, looking and writing are two steps from then on: a second writer
    in between is overwritten. Whoever writes the same key of a run writes the same rows, so nothing is lost."""

    def __init__(self, prefix: S3Prefix) -> None:
        self._prefix = prefix
        self._are_supported = True

    def write(self, key: str, send: Callable[[Mapping[str, str]], None], *, replacing: ObjectStat | None) -> None:
        """Call `send` with the SDK's arguments for the condition that the object is `replacing`, or none.

        Raises ObjectExists where it is not, and whatever `send` raises.
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
