"""How the SDK is set up: its region, endpoint and addressing, its certificates and proxies, and its credentials.

Only this module, `client` and `errors` import boto3 and botocore.
"""

from __future__ import annotations

import os
import shlex
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.credentials import ContainerProvider
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,  # noqa: A004 - the SDK's name
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.httpsession import URLLib3Session
from botocore.utils import ContainerMetadataFetcher, IMDSRegionProvider

from common.certificates import is_configured, refusal, trusted_file
from common.errors import SettingsError, StoreUnavailable
from common.logs import log
from common.proxies import EnvironmentProxies
from common.retry import GivenUp, Pause, RetryPolicy, call
from common.settings import S3Settings, read_settings
from common.store.s3.endpoint import DEFAULT_REGION, endpoint_of_environment, has_virtual_hosts_only, region_in

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AGENT_PATIENCE_SECONDS = 120.0
"""The time in seconds for which the source of the credentials may fail, when the environment names one: an agent of the
node, or an identity service. It is the time that a request to S3 may fail."""

ABSENT_PATIENCE_SECONDS = 20.0
"""The time in seconds for which credentials are looked for, when the environment names no source of them.

Then they can only come from the metadata service, which the network of a new pod may not reach yet. Users of kiam,
kube2iam and GKE report a few seconds, up to more than ten, and an answer of 404 meanwhile.
"""

AGENT_SECONDS = 2
"""The longest time in seconds for one answer of an agent on the node."""

CONNECT_SECONDS = 10
"""The longest time in seconds to connect to an identity service."""

SILENT_SECONDS = 5.0
"""The time in seconds without credentials before the log says so."""

_PASSING = (ConnectionError, CredentialRetrievalError, HTTPClientError, MetadataRetrievalError, OSError, KeyError)
"""What the SDK raises while the source of the credentials cannot answer. KeyError: its answer holds no credentials."""


class _NotThereYet(Exception):
    """There are no credentials, and the metadata service may still come."""


class Sdk:
    """One session of the SDK. Raises SettingsError for settings that the SDK does not take."""

    def __init__(self) -> None:
        self.core = botocore.session.get_session()
        self._proxies = EnvironmentProxies()
        self.endpoint = own_endpoint()
        """The URL that a person has set, an empty text for AWS's own endpoints."""
        self._has_region = self._set_region()
        self._set_certificates()
        self._set_identity_clients()
        self._session: boto3.session.Session | None = None
        self._wants_virtual_hosts = has_virtual_hosts_only(self.endpoint)

    @property
    def credentials(self) -> Any:  # noqa: ANN401 - the SDK's own object
        """The credentials, None if there are none."""
        return self.core.get_credentials()

    @property
    def region(self) -> str:
        return str(self.core.get_config_variable("region"))

    def set_region_of_machine(self) -> None:
        """Use the region that the metadata service says, if no region is set."""
        if self._has_region or _is_metadata_disabled():
            return
        provider = IMDSRegionProvider(self.core)
        _without_proxy(provider._get_fetcher())  # type: ignore[attr-defined]  # the SDK's stubs lack it
        try:
            found = provider.provide()
        except (BotoCoreError, OSError):
            return
        if found:
            self.core.set_config_variable("region", found)

    def client(self, config: Config, *, region: str = "", addressing: str = "") -> S3Client:
        """Return a client of S3 in a region and with an addressing style, by default this session's.

        The SDK decides about a proxy for each scheme, and not for each host. So the client is made for its endpoint.
        """
        session = self._session = self._session or boto3.session.Session(botocore_session=self.core)
        style: Any = {"addressing_style": addressing or self._addressing(), "us_east_1_regional_endpoint": "regional"}
        config = config.merge(Config(s3=style, proxies={}))
        region = region or self.region
        client: S3Client = session.client("s3", region_name=region, config=config, endpoint_url=self.endpoint or None)
        if (through := self._through_proxy(client.meta.endpoint_url)) is not None:
            config = config.merge(through)
            client = session.client("s3", region_name=region, config=config, endpoint_url=self.endpoint or None)
        return client

    def use_virtual_hosts(self) -> bool:
        """Make later clients put the bucket into the host. Return whether that is a change that no setting forbids."""
        is_change = not self._wants_virtual_hosts and self._addressing() == "auto"
        self._wants_virtual_hosts = True
        return is_change

    def _addressing(self) -> str:
        """Return the SDK's addressing style."""
        chosen = read_settings(S3Settings).s3_addressing
        if chosen == "auto":
            chosen = (self.core.get_config_variable("s3") or {}).get("addressing_style") or "auto"
        if chosen == "auto" and (self._wants_virtual_hosts or not self.endpoint):
            # For a signed URL, `auto` is the host of all regions, which new regions refuse. `virtual` is the region's
            # own host, and the bucket is in the path where its name has dots.
            return "virtual"
        return str(chosen)

    def _set_region(self) -> bool:
        """Return whether the region is set, or follows from the endpoint."""
        named = os.environ.get("AWS_REGION") or self.core.get_config_variable("region")
        self.core.set_config_variable("region", named or region_in(self.endpoint) or DEFAULT_REGION)
        return bool(named or self.endpoint)

    def _set_certificates(self) -> None:
        named = self.core.get_config_variable("ca_bundle") or ""
        if named and not Path(str(named)).exists():
            raise SettingsError(f"AWS_CA_BUNDLE, or ca_bundle of the profile, is {named!r}, and there is no such file")
        if named or is_configured():
            self.core.set_config_variable("ca_bundle", trusted_file(public=str(named)))

    def _set_identity_clients(self) -> None:
        """Give certificates and proxies also to the clients that the SDK makes for itself."""
        verify = self.core.get_config_variable("ca_bundle") or True
        agent = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        proxies = self._proxies_of(agent) if agent.startswith("https://") else {}
        resolver = self.core.get_component("credential_provider")
        for index, provider in enumerate(resolver.providers):
            if provider.METHOD == "container-role":
                http = URLLib3Session(verify=verify, timeout=AGENT_SECONDS, proxies=proxies)
                agent_client: Any = ContainerMetadataFetcher(session=http)
                resolver.providers[index] = ContainerProvider(fetcher=agent_client)
            elif provider.METHOD == "iam-role":
                _without_proxy(provider._role_fetcher)
        config = Config(connect_timeout=CONNECT_SECONDS, proxies={})
        self.core.set_default_client_config(config)
        if not self._proxies.is_direct:
            sts = self.core.create_client("sts", config=Config(signature_version=UNSIGNED))
            if (through := self._through_proxy(sts.meta.endpoint_url)) is not None:
                self.core.set_default_client_config(config.merge(through))

    def _through_proxy(self, url: str) -> Config | None:
        """Return the settings of a client whose requests to this URL pass through a proxy, None if they do not."""
        if not (proxies := self._proxies_of(url)):
            return None
        return Config(proxies=proxies, proxies_config={"proxy_ca_bundle": trusted_file()})

    def _proxies_of(self, url: str) -> dict[str, str]:
        proxy = self._proxies.proxy_for_url(url)
        return {url.partition("://")[0]: proxy.url} if proxy else {}


@cache
def sdk() -> Sdk:
    """Return this process's session of the SDK. The first call waits for the credentials.

    There are none where no source of them is configured. Raises SettingsError, CertificateRefused, and StoreUnavailable
    when the source of the credentials fails for too long.
    """
    began = time.monotonic()

    def find() -> Sdk:
        try:
            found = Sdk()
            credentials = found.credentials
        except _PASSING as error:
            if (refused := refusal(error, "the service that gives credentials for S3")) is not None:
                raise refused from error
            if isinstance(error, (FileNotFoundError, PermissionError)) and error.filename == _credential_program():
                raise SettingsError(
                    f"the profile's credential_process cannot be run: {error.filename}: {error.strerror}; put the "
                    "program into the image, or give keys or a role instead"
                ) from error
            raise
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"S3 cannot be set up: {error}") from error
        # The SDK remembers that there are none, so it is asked in a new session.
        if credentials is None and time.monotonic() - began < ABSENT_PATIENCE_SECONDS and not _is_metadata_disabled():
            raise _NotThereYet("no credentials are set, and the metadata service does not give any")
        found.set_region_of_machine()
        return found

    def warn(pause: Pause) -> None:
        if pause.failing_seconds > SILENT_SECONDS:
            log.warning("no_credentials_yet", attempt=pause.attempt, error=str(pause.error))

    policy = RetryPolicy(first_pause_seconds=0.25, longest_pause_seconds=4, patience_seconds=AGENT_PATIENCE_SECONDS)
    passing = (_NotThereYet, *_PASSING)
    try:
        return call(find, policy, may_pass=lambda error: isinstance(error, passing), before_pause=warn)
    except GivenUp as given_up:
        why = " ".join(str(given_up.error).split())
        raise StoreUnavailable(
            f"the credentials for S3 cannot be fetched: {why} (attempt {given_up.attempts}, the last)"
        ) from given_up.error


def _credential_program() -> str:
    """Return the name of the program that gives the profile's credentials, an empty text if there is none."""
    words = shlex.split(botocore.session.get_session().get_scoped_config().get("credential_process", ""))
    return words[0] if words else ""


def own_endpoint() -> str:
    """Return the URL that takes the place of AWS's own endpoint, an empty text if there is none.

    It comes from the environment, else from the profile. Raises SettingsError if the profile cannot be read.
    """
    named = endpoint_of_environment()
    if named is not None:
        return named
    core = botocore.session.get_session()
    try:
        if core.get_config_variable("ignore_configured_endpoint_urls"):
            return ""
        provider = ConfiguredEndpointProvider(core.full_config, core.get_scoped_config(), "s3")
        return str(provider.provide() or "")
    except BotoCoreError as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error


def _without_proxy(fetcher: Any) -> None:  # noqa: ANN401 - the SDK's own object
    # The metadata service is this machine's own, so a proxy has another one. The SDK asks the proxy all the same unless
    # NO_PROXY holds the very address, and has no setting for it.
    fetcher._session = URLLib3Session(timeout=fetcher._timeout, proxies={})


def _is_metadata_disabled() -> bool:
    return os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
