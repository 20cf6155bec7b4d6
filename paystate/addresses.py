"""Where Redis or Valkey is: the parts of a URL of one of our forms, and what its parameters say."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

__all__ = ["PARAMETERS", "TLS_FILES", "RedisUrl"]

# Files in PEM: whom to trust (else whoever the system does), and who we are.
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# Every parameter that a URL may have.
PARAMETERS = frozenset(
    {*TLS_FILES, "ssl_check_hostname", "sentinel_username", "sentinel_password", "sentinel_tls"}
)


class RedisUrl:
    """The parts of a URL of one of our forms.

    ``redis[s]://host:port/db``, ``redis[s]+sentinel://host:port,host:port/name[/db]``,
    ``redis[s]+cluster://host:port,host:port``. Parameters: `PARAMETERS`, in docs/cluster.md.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        scheme, _, self.topology = parts.scheme.partition("+")
        self.tls = scheme == "rediss"
        self.username = unquote(parts.username) if parts.username else None
        self.password = unquote(parts.password) if parts.password else None
        path = [piece for piece in parts.path.split("/") if piece]
        self.service = path[0] if self.topology == "sentinel" and path else None
        rest = path[1:] if self.topology == "sentinel" else path
        self.db = int(rest[0]) if rest else 0
        hosts = parts.netloc.rpartition("@")[2]
        self.hosts = [_host(text) for text in hosts.split(",")]
        self._parameters = dict(parse_qsl(parts.query))

    @property
    def tls_options(self) -> dict[str, Any]:
        """What redis-py's connections are given for TLS; nothing without it.

        A certificate must be for the host that was named, which redis-py does not ask by itself.
        """
        return self._tls_options() if self.tls else {}

    def _tls_options(self) -> dict[str, Any]:
        files = {name: self._parameters[name] for name in TLS_FILES if name in self._parameters}
        return {**files, "ssl_check_hostname": self._parameters.get("ssl_check_hostname") != "no"}

    def sentinel_options(self, timeout_s: float) -> dict[str, Any]:
        """Return what redis-py's connections to the sentinels are given: they have own passwords.

        They speak TLS if the servers do, unless ``sentinel_tls=no``.
        """
        options: dict[str, Any] = {
            "username": self._parameters.get("sentinel_username"),
            "password": self._parameters.get("sentinel_password"),
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
        }
        if self.tls and self._parameters.get("sentinel_tls") != "no":
            options |= {"ssl": True, **self._tls_options()}
        return options

    def server_url(self, host: str, port: int) -> str:
        """Return the URL of one of its servers alone, with the same password and TLS."""
        who = ""
        if self.password is not None:
            who = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        shown = f"[{host}]" if ":" in host else host
        query = f"?{urlencode(self._parameters)}" if self._parameters else ""
        return f"redis{'s' if self.tls else ''}://{who}{shown}:{port}{query}"


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not host:
        host, port = port, ""
    return host.strip("[]") or "127.0.0.1", int(port) if port else 6379
