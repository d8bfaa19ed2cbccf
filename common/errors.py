"""What can go wrong, and the exit code that tells it to Kubernetes.

EmbedderError
├── ConfigError              78  every pod would fail alike: the whole Job fails
│   ├── SettingsError            a setting is missing or out of range
│   ├── ManifestError            the list of images cannot be used as it is
│   ├── ModelError               no such model, or weights that do not fit
│   ├── StoreAccessDenied        no bucket, no credentials, no permission
│   ├── CertificateRefused       a server's certificate is not trusted, is out of date or is for another host
│   ├── FingerprintMismatch      the store holds a run made with other settings
│   ├── ClusterAccessDenied      no cluster is configured, or it refuses access
│   ├── NotInCluster             the cluster has no such release, Job or pod
│   ├── RerunRefused             these chunks cannot be computed again at this time
│   └── TopUpRefused             failed images cannot be fetched again at this time
├── DataError                65  this chunk cannot succeed: its index fails
│   ├── TooManyFailures          more images failed than the limit allows
│   ├── ChunkInvalid             a chunk file breaks an invariant
│   ├── ChunksMissing            the merge lacks chunks
│   ├── ResultMissing            the merge has ended without a result
│   └── QueryRefused             nothing can be searched for with this text or image
└── TemporaryError           75  a fault that may pass: the index is retried
    ├── StoreUnavailable         the store does not answer, or its answer is not valid
    ├── SourceUnavailable        the manifest or all image sources do not answer
    ├── ClusterUnavailable       the cluster's API does not answer, or its answer is not valid
    ├── RunUnfinished            the run has no result to check yet
    ├── DeviceUnavailable        the device is absent, cannot be used, fails or hangs
    └── ResourceExhausted        the disk, the memory or the open files are used up
Stopped                     143  stopped by SIGTERM (130 by SIGINT); nothing is half-written
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class ExitCode(IntEnum):
    """The exit codes that the Jobs' podFailurePolicy acts on; the numbers are those of sysexits.h."""

    OK = 0
    DATA_ERROR = 65
    TEMPORARY_FAILURE = 75
    CONFIG_ERROR = 78
    INTERRUPTED = 130
    STOPPED = 143


class EmbedderError(Exception):
    """A foreseen failure of a program. Its message is one sentence: what was found, what was expected, what helps."""

    exit_code: ExitCode

    def __init__(self, message: str = "", *, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.counts = counts or {}
        """Numbers for other programs, which the last word repeats."""


class ConfigError(EmbedderError):
    exit_code = ExitCode.CONFIG_ERROR


class SettingsError(ConfigError):
    pass


class ManifestError(ConfigError):
    pass


class ModelError(ConfigError):
    pass


class StoreAccessDenied(ConfigError):
    pass


class CertificateRefused(ConfigError):
    pass


class FingerprintMismatch(ConfigError):
    def __init__(self, message: str, *, chunk_count: int | None = None) -> None:
        super().__init__(message)
        self.chunk_count = chunk_count
        """Number of chunks of the run in the store, where nothing else differs."""


class ClusterAccessDenied(ConfigError):
    pass


class NotInCluster(ConfigError):
    pass


class RerunRefused(ConfigError):
    pass


class TopUpRefused(ConfigError):
    pass


class DataError(EmbedderError):
    exit_code = ExitCode.DATA_ERROR


class TooManyFailures(DataError):
    pass


class ChunkInvalid(DataError):
    pass


class ChunksMissing(DataError):
    pass


class ResultMissing(DataError):
    pass


class QueryRefused(DataError):
    pass


class TemporaryError(EmbedderError):
    exit_code = ExitCode.TEMPORARY_FAILURE


class StoreUnavailable(TemporaryError):
    pass


class SourceUnavailable(TemporaryError):
    pass


class ClusterUnavailable(TemporaryError):
    pass


class RunUnfinished(TemporaryError):
    pass


class DeviceUnavailable(TemporaryError):
    pass


class ResourceExhausted(TemporaryError):
    pass


class Stopped(BaseException):
    """Raised in the main thread by the handlers that `program.run` installs for SIGTERM and SIGINT.

    Like KeyboardInterrupt it is not an Exception: libraries catch an Exception and try again.
    """

    def __init__(self, message: str, *, exit_code: ExitCode = ExitCode.STOPPED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
