"""Which server owns which slot, as a server of the cluster tells it. Pure functions of replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SLOTS", "Address", "Redirect", "View", "parse_redirect", "parse_view"]

SLOTS = 16_384

# Host and port.
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class View:
    """What one server says. `healthy`: it serves, so it is not cut off with a past of its own.

    `owners` has an entry for each slot, None where there is no server for it.
    """

    healthy: bool
    owners: Sequence[Address | None]
    replicas: frozenset[Address]

    @property
    def primaries(self) -> frozenset[Address]:
        """Every server that owns a slot."""
        return frozenset(owner for owner in self.owners if owner is not None)


def parse_view(info: bytes, slots: Any, asked: Address) -> View | None:
    """Return what the replies to CLUSTER INFO and CLUSTER SLOTS say; None if it knows no slots.

    A server that does not know its own name calls itself nothing: that is who was `asked`.
    """
    owners: list[Address | None] = [None] * SLOTS
    replicas: set[Address] = set()
    for first, last, primary, *others in slots:
        address = _address(primary[0], primary[1], asked)
        owners[first : last + 1] = [address] * (last - first + 1)
        replicas.update(
            known for row in others if (known := _address(row[0], row[1], asked)) is not None
        )
    if not slots:
        return None
    return View(b"cluster_state:ok" in info, owners, frozenset(replicas))


@dataclass(frozen=True, slots=True)
class Redirect:
    """Another server to ask: from now on (`moved`), or for this once."""

    moved: bool
    slot: int
    to: Address


def parse_redirect(error: Exception, asked: Address) -> Redirect | None:
    """Return where a reply like ``MOVED 3999 10.0.0.1:6381`` sends the caller, or None."""
    word, _, rest = str(error).partition(" ")
    if word not in ("MOVED", "ASK"):
        return None
    slot, _, address = rest.partition(" ")
    host, _, port = address.rpartition(":")
    to = _address(host.encode(), int(port), asked)
    return Redirect(word == "MOVED", int(slot), to) if to else None


def _address(host: bytes | None, port: int, asked: Address) -> Address | None:
    if host == b"?":
        return None  # the cluster does not know it itself
    return (host.decode().strip("[]") if host else asked[0]), int(port)
