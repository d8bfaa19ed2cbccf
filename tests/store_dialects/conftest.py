from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from common.store.s3.client import clear_clients
from common.store.s3.store import S3Store
from tests.s3_proxy import S3Proxy, s3_proxy
from tests.store_dialects.dialects import Dialect, Double

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.s3_server import S3Server


class Speaking(NamedTuple):
    """A store that speaks a dialect, as this process uses it."""

    store: S3Store
    double: Double
    proxy: S3Proxy


@pytest.fixture
def direct(bucket: str) -> S3Store:
    """The store without a dialect."""
    return S3Store(f"s3://{bucket}/some run+é")


@pytest.fixture
def speak(s3: S3Server, direct: S3Store) -> Callable[[Dialect], AbstractContextManager[Speaking]]:
    """Give a function that makes this process use a store which speaks a dialect, for the length of a block."""

    @contextmanager
    def speaking(dialect: Dialect, **variables: str) -> Iterator[Speaking]:
        double = Double(dialect)
        with pytest.MonkeyPatch.context() as patch, s3_proxy(s3, double) as proxy:
            for name, value in (proxy.environment | variables).items():
                patch.setenv(name, value)
            clear_clients()
            yield Speaking(S3Store(direct.uri), double, proxy)
        clear_clients()

    return speaking
