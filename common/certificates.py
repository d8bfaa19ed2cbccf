"""The authorities that this program trusts, the same ones on every connection.

The public authorities come from the first of these that exists: SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, the
system's store, the store of the package certifi. The certificates of EMBEDDER_CA_BUNDLE are trusted in addition.
"""

from __future__ import annotations

import os
import re
import ssl
from collections import deque
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import CertificateRefused
from common.settings import TlsSettings, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATE_VARIABLES = ("EMBEDDER_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""The environment variables that decide which authorities are trusted. None of them is a secret."""

_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.+?-----END [A-Z0-9 ]+-----", re.DOTALL)

_EXPIRED, _NOT_YET_VALID = 10, 9
_WRONG_NAMES = {62, 64}
"""Numbers of OpenSSL's verdicts on a certificate (X509_V_ERR_..., x509_vfy.h)."""


def trusted_file(*, public: str = "") -> str:
    """Return the path of a PEM file with the certificates of all trusted authorities, for libraries that take a file.

    `public` is a file or folder that takes the place of the public authorities.
    """
    return _one_file(public or _public_place(), read_settings(TlsSettings).ca_bundle)


def is_configured() -> bool:
    """Return whether the environment says which authorities are trusted, for all connections."""
    return any(os.environ.get(name) for name in CERTIFICATE_VARIABLES)


def client_context() -> ssl.SSLContext:
    """Return a TLS context for connections to servers and proxies."""
    return ssl.create_default_context(cafile=trusted_file())


TRUST = "put the certificate of its authority into the file that EMBEDDER_CA_BUNDLE names"
"""What helps if a server's authority is not trusted."""


def refusal(error: BaseException, what: object, *, trust: str = TRUST) -> CertificateRefused | None:
    """Return the error for a connection about `what` whose server's certificate was refused.

    `trust` tells what helps if the server's authority is not trusted. Returns None if `error` has another cause, which
    may pass.
    """
    from urllib3.util.ssl_match_hostname import CertificateError  # noqa: PLC0415 - few programs need it here

    for each in _causes(error):
        if isinstance(each, CertificateError):
            return _refused(what, "is for another host; use a name that the certificate holds")
        # aiohttp wraps the error in one of this class that says nothing by itself.
        if isinstance(each, ssl.SSLCertVerificationError) and hasattr(each, "reason"):
            return _refused(what, _why(each, trust))
    return None


def _refused(what: object, why: str) -> CertificateRefused:
    return CertificateRefused(f"{what}: the certificate of the server {why}")


def _why(error: ssl.SSLCertVerificationError, trust: str) -> str:
    code = getattr(error, "verify_code", 0)
    if code == _EXPIRED:
        return "has expired; renew it, or correct the clock of this machine"
    if code == _NOT_YET_VALID:
        return "is not valid yet; correct the clock of this machine"
    if code in _WRONG_NAMES:
        return "is for another host; use a name that the certificate holds"
    why = getattr(error, "verify_message", "") or error.reason
    return f"is not trusted ({why}); {trust}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all errors that it was made of, however the libraries keep them."""
    waiting, seen = deque([error]), set[int]()
    while waiting:
        each = waiting.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        kept = (getattr(each, name, None) for name in ("reason", "original_error", "kwargs"))
        found = [each.__cause__, each.__context__, *each.args, *kept]
        found += [value for part in found if isinstance(part, dict) for value in part.values()]
        waiting.extend(part for part in found if isinstance(part, BaseException))


def _public_place() -> str:
    """Return the file, or the folders, with the certificates of the public authorities."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        place = os.environ.get(name, "")
        if any(Path(part).exists() for part in place.split(os.pathsep) if part):
            return place
    defaults = ssl.get_default_verify_paths()
    if found := defaults.cafile or defaults.capath:
        return str(found)
    from certifi import where  # noqa: PLC0415 - only a machine without a store needs it

    return where()


@cache
def _one_file(public: str, bundle: str) -> str:
    if not bundle and Path(public).is_file():
        return public
    files = [file for place in (*public.split(os.pathsep), bundle) if place for file in _files(Path(place))]
    # A folder has each certificate twice, under its own name and under its hash, and often all of them in one file too.
    found = dict.fromkeys(block for file in files for block in _CERTIFICATE.findall(file.read_bytes()))
    # A file in memory, so that nothing is left behind and no disk needs to be writable. It stays open for all
    # connections to come, also those of processes that this one forks.
    descriptor = os.memfd_create("certificates")
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.writelines(block + b"\n" for block in found)
    return f"/proc/self/fd/{descriptor}"


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place] if place.exists() else []
    return sorted(each for each in place.iterdir() if each.is_file())
