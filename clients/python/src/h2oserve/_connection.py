"""Where the server is, and how it is reached: address, keep-alive, TLS, key."""
from __future__ import annotations

import ipaddress
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc

Metadata = tuple[tuple[str, str], ...]
Path = str | os.PathLike[str]

# A server that is frozen or cut off is noticed within 20 seconds.  One that comes back is found again soon.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 4_000),
    ("grpc.max_receive_message_length", -1),  # logprobs of a long prompt
)
# Calls go to each server that is ready in turn.
_BALANCED = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "ready"}})


class Connection:
    """All that a channel is made of, for both kinds of client."""

    def __init__(self, server: str | Sequence[str] | None, api_key: str | None, tls: bool, tls_ca: Path | None,
                 tls_cert: Path | None, tls_key: Path | None, tls_name: str | None) -> None:
        self.target = _target_of(server or os.environ.get("H2OSERVE_SERVER", ""))
        self._api_key = api_key or os.environ.get("H2OSERVE_API_KEY")
        self.options = [*_OPTIONS, *_balancing(self.target)]
        if tls_name:
            self.options.append(("grpc.ssl_target_name_override", tls_name))
        self.credentials: grpc.ChannelCredentials | None = None
        if tls or tls_ca or tls_cert or tls_key:
            self.credentials = grpc.ssl_channel_credentials(_read(tls_ca), _read(tls_key), _read(tls_cert))

    def metadata(self, more: Mapping[str, str] | None) -> Metadata:
        """What a call carries beside its request."""
        key = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        return tuple({**key, **(more or {})}.items())


def _read(path: Path | None) -> bytes | None:
    return pathlib.Path(path).read_bytes() if path else None


def _balancing(target: str) -> Iterable[tuple[str, Any]]:
    return [("grpc.service_config", _BALANCED)] if target.startswith(("ipv4:", "ipv6:", "dns:")) else []


def _target_of(server: str | Sequence[str]) -> str:
    addresses = [part.strip() for part in (server.split(",") if isinstance(server, str) else server)]
    addresses = [address for address in addresses if address]
    if not addresses:
        raise ValueError("no server: give HOST:PORT, or set H2OSERVE_SERVER")
    if len(addresses) == 1:
        return addresses[0]
    versions = {_ip_version(address) for address in addresses}
    if len(versions) > 1:
        raise ValueError(f"several servers must be all IPv4 or all IPv6, not {','.join(addresses)}")
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def _ip_version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        int(port)
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise ValueError(f"{address!r} is no IP:PORT, which several servers must be; for a name that has several "
                         "addresses give dns:///NAME:PORT") from None
