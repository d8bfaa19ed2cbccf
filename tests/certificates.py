"""Certificates for servers on loopback, made with openssl: by an authority of the test, or without any."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


class Certificates:
    """Makes certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is needed to make a certificate")
        self._folder = folder
        self.authority = folder / "authority.pem"
        """The authority's certificate."""
        self._openssl(f"req -x509 {NEW_KEY} -subj /CN=authority -days 9 -keyout authority.key -out authority.pem")

    def server(self, *, host: str = "localhost", days: int = 9) -> ssl.SSLContext:
        """Return the context of a server whose certificate is for `host`, signed by the authority, for some days."""
        self._openssl(
            f"req {NEW_KEY} -subj /CN=server -addext subjectAltName=DNS:{host} -keyout server.key -out server.csr"
        )
        signed_by = "-CA authority.pem -CAkey authority.key -copy_extensions copy"
        self._openssl(f"x509 -req -in server.csr {signed_by} -days {days} -out server.pem")
        return self._context()

    def self_signed_server(self) -> ssl.SSLContext:
        """Return the context of a server whose certificate no authority has signed."""
        name = "-subj /CN=server -addext subjectAltName=DNS:localhost"
        self._openssl(f"req -x509 {NEW_KEY} {name} -days 9 -keyout server.key -out server.pem")
        return self._context()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        return context

    def _openssl(self, command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=self._folder, check=True, capture_output=True)
