"""The deletion of S3 objects: many with one request, or one by one where a store does not know that request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from common.errors import EmbedderError, StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.store.contract import ObjectAbsent
from common.store.s3.errors import ABSENT_CODES, DENIED_CODES, PASSING_CODES, RequestRefused, StoreFault
from common.store.s3.request import PATIENCE_SECONDS, ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.store.s3.prefix import S3Prefix

BATCH = 1000
"""The largest number of keys in one DeleteObjects request, a limit of S3."""

CONCURRENCY = 16
"""The number of deletions in flight where each object takes a request."""


GRACE_SECONDS = 3
"""The longest wait, in seconds, for requests in flight to end after one was refused or the program was told to stop."""


class Deletion:
    """Deletes objects. A store that refuses DeleteObjects once is not asked for it again."""

    def __init__(self, prefix: S3Prefix) -> None:
        self._prefix = prefix
        self.in_batches = True
        """Whether many objects are deleted with one request."""

    def delete(self, keys: Iterable[str], *, batch_patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Delete the objects. An absent one is no error.

        Raises StoreAccessDenied and StoreUnavailable. `batch_patience_seconds` is the time from the first failure of
        DeleteObjects until the objects are deleted one by one.
        """
        names = [self._prefix.full_key(key) for key in keys]
        for first in range(0, len(names), BATCH):
            batch = names[first : first + BATCH]
            refusal: EmbedderError | None = None
            if self.in_batches:
                try:
                    ask(
                        self._prefix.location(""),
                        partial(self._delete_batch, batch),
                        patience_seconds=batch_patience_seconds,
                    )
                    continue
                except (RequestRefused, StoreAccessDenied) as error:
                    refusal = error
                except StoreUnavailable as error:
                    if batch_patience_seconds == PATIENCE_SECONDS:
                        raise
                    refusal = error
                except ObjectAbsent as error:  # a store that knows no such request, and answers 404
                    refusal = StoreUnavailable(str(error))
            self._delete_each(batch)
            if refusal is not None:
                self.stop_batches(refusal)

    def stop_batches(self, because: object) -> None:
        """Delete one by one from now on, and log why."""
        if self.in_batches:
            self.in_batches = False
            log.warning("store_without_batch_deletion", error=str(because))

    def _delete_batch(self, names: Sequence[str]) -> None:
        answer = self._prefix.client.delete_objects(
            Bucket=self._prefix.bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
        errors = [error for error in answer.get("Errors", []) if error.get("Code") not in ABSENT_CODES]
        if not errors:
            return
        first = errors[0]
        code = first.get("Code", "")
        text = f"{len(errors)} of {len(names)} objects were not deleted, the first: {first.get('Key')}: {code}"
        message = f"{self._prefix.location('')}: {text} {first.get('Message', '')}".rstrip()
        if code in PASSING_CODES:
            raise StoreFault(message)
        raise StoreAccessDenied(message) if code in DENIED_CODES else RequestRefused(message)

    def _delete_each(self, names: Sequence[str]) -> None:
        def delete(name: str) -> None:
            try:
                ask(
                    f"s3://{self._prefix.bucket}/{name}",
                    lambda: self._prefix.client.delete_object(Bucket=self._prefix.bucket, Key=name),
                )
            except ObjectAbsent:
                return
            except RequestRefused as refused:  # every store knows this request, so it is the object that stays
                raise StoreAccessDenied(str(refused)) from refused

        pool = ThreadPoolExecutor(min(CONCURRENCY, len(names)), thread_name_prefix="delete")
        deletions = [pool.submit(delete, name) for name in names]
        try:
            for deletion in deletions:
                deletion.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            wait([deletion for deletion in deletions if not deletion.cancelled()], timeout=GRACE_SECONDS)
