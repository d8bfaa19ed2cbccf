"""The settings of the programs, and how they are read.

Each program reads its settings once, in `__main__`, into frozen objects. `batch_size` is `EMBEDDER_BATCH_SIZE` in the
environment and `worker.batchSize` in the chart. A program with many settings divides them into sections, one for each
of its parts: a frozen dataclass holds them, and each part is given its own section.
"""

from __future__ import annotations

import ssl
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, get_type_hints

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.errors import SettingsError
from common.logs import redact_urls

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ENV_PREFIX = "EMBEDDER_"


class Section(BaseSettings):
    """Some settings that belong together. Other variables of the environment are ignored."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )


class S3Settings(Section):
    """What the SDK's own variables cannot say about S3. The S3 client reads it when it is made."""

    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket stands in the URLs of S3: `path` is `https://store/bucket/key`, `virtual` is
    `https://bucket.store/key`. `auto`: virtual at AWS and at stores that take nothing else, path at another endpoint of
    one's own."""

    s3_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    """Server-side encryption that every object is written with: `AES256` with keys of the store, `aws:kms` or
    `aws:kms:dsse` with a key of a key management service. Empty: the bucket's default. A bucket whose policy denies
    uploads without encryption needs it."""

    s3_kms_key_id: str = ""
    """Key that `aws:kms` and `aws:kms:dsse` encrypt with: its id, ARN or alias. Empty: the account's default key."""

    s3_requester_pays: bool = False
    """Whether this account pays for the requests to buckets whose owner does not (requester pays). Every request then
    says so, those of `s3://` image URLs included."""

    @model_validator(mode="after")
    def _key_has_a_use(self) -> Self:
        if self.s3_kms_key_id and not self.s3_encryption.startswith("aws:kms"):
            raise ValueError(
                "EMBEDDER_S3_KMS_KEY_ID is set, which EMBEDDER_S3_ENCRYPTION uses only if it is aws:kms or "
                f"aws:kms:dsse, and it is {self.s3_encryption!r}; set it to aws:kms, or unset the key"
            )
        return self


class TlsSettings(Section):
    """Which servers are trusted."""

    ca_bundle: str = ""
    """Path of a PEM file with the certificates of private authorities. They are trusted in addition to the public
    ones, by every connection: to S3 and its identity services, the manifest, the images, the hub, and a proxy that is
    reached over TLS."""

    @field_validator("ca_bundle")
    @classmethod
    def _has_certificates(cls, path: str) -> str:
        if path:
            _check_certificates(path)
        return path


class RunSettings(S3Settings, TlsSettings):
    """The settings that every program of a run shares."""

    run_uri: str = Field(min_length=1)
    """The place of the run: `s3://bucket/prefix` or a folder. All programs of a run are given the same one."""

    chunk_count: int = Field(ge=1, le=100_000)
    """Number of chunks that the manifest is divided into. A failed chunk is repeated as a whole, and all images of a
    chunk share one start-up of about 10 seconds: 10,000 images a chunk suit a CPU, 50,000 a GPU. Kubernetes allows an
    Indexed Job 100,000."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. Progress has the level info."""


Settings = TypeVar("Settings")


class Setting(NamedTuple):
    """One setting of a program."""

    section: type[Section]
    field: FieldInfo
    variable: str
    """The environment variable."""


def sections_of(kind: type[object]) -> dict[str, type[Section]]:
    """Return the sections of `kind` by name: those of a dataclass, or `kind` under the name "" if it is a section."""
    if is_dataclass(kind):
        return {name: section for name, section in get_type_hints(kind).items() if issubclass(section, Section)}
    if issubclass(kind, Section):
        return {"": kind}
    raise TypeError(f"{kind.__name__} is neither a section nor a dataclass of sections")


def settings_of(kind: type[object]) -> dict[str, Setting]:
    """Return every setting of `kind`, by its name."""
    return {
        name: Setting(section, field, _variable(section, name))
        for section in sections_of(kind).values()
        for name, field in section.model_fields.items()
    }


def read_settings(kind: type[Settings], **values: Any) -> Settings:  # noqa: ANN401 - each setting has its own type
    """Return the settings of `kind`, a section or a dataclass of sections, from the environment.

    `values`, by name, take precedence. Raises a SettingsError that names every setting that is wrong.
    """
    read: dict[str, Section] = {}
    problems: list[str] = []
    for name, section in sections_of(kind).items():
        try:
            read[name] = section(**values)
        except ValidationError as error:
            problems += [_problem(section, dict(detail)) for detail in error.errors()]
    if problems:
        raise SettingsError("; ".join(problems))
    return kind(**read) if is_dataclass(kind) else read[""]  # type: ignore[return-value]


def _check_certificates(path: str) -> None:
    """Raise ValueError unless the file holds at least one certificate and can be read as a whole."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ValueError("the file holds no certificate in PEM format, or a damaged one") from error
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from error


def _variable(section: type[Section], name: str) -> str:
    """Return the environment variable of a setting: its alias if it has one, else the prefix and its name."""
    info = section.model_fields.get(name)
    alias = info.validation_alias if info else None
    return alias if isinstance(alias, str) else f"{ENV_PREFIX}{name}".upper()


def _problem(section: type[Section], detail: dict[str, object]) -> str:
    location = detail["loc"]
    field = str(location[0]) if isinstance(location, tuple) and location else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    name = field if field.isupper() else _variable(section, field)
    if detail["type"] == "missing":
        return f"{name} is not set"
    return redact_urls(f"{name} is {detail['input']!r}: {message[:1].lower()}{message[1:]}")
