"""One HTTP request of a command: no proxy, no redirect, no retry, and an end to waiting."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "Unreachable", "request", "server_url"]

# Longer than a lookup that has to ask Flutterwave (8 s), shorter than a person's patience.
TIMEOUT_S = 15.0


class Unreachable(Exception):
    """No answer came; the text says why in a few words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object, empty if it is anything else."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def detail(self) -> str:
        """What the problem document says, or the first words of the body."""
        problem = self.json()
        said = problem.get("detail") or problem.get("title")
        return str(said or self.body[:200].decode("utf-8", "replace")).strip()


def server_url(text: str) -> str:
    """Return `text` without a slash at its end. Raises ValueError if it is no http(s) address."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} is not an address like http://127.0.0.1:8080")
    _ = parts.port  # raises ValueError where it is no port
    return text.rstrip("/")


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Return the answer to one request. Raises `Unreachable`, never an error of the network."""
    parts = urlsplit(server_url(url))
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except TimeoutError as e:
        raise Unreachable(f"no answer within {timeout_s:g} s") from e
    except http.client.HTTPException as e:
        raise Unreachable(f"what answers there does not speak HTTP ({type(e).__name__})") from e
    except ValueError:
        # Without its text, which quotes the header: that may be a secret.
        raise Unreachable("a header or the address has characters that HTTP cannot carry") from None
    except OSError as e:
        raise Unreachable(e.strerror or str(e) or type(e).__name__) from e
    finally:
        connection.close()
