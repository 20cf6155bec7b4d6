"""Links to customers' pages: which payment, and until when, signed. Nothing else is in them.

Whoever has a link may see that one status until it expires; nothing of it has to be kept. The first
key signs and every key is believed, so that a key can be exchanged without breaking the links that
are out: put the new one in front, and take the old one away when they have expired.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from paystate.errors import LinkRefused
from paystate.keys import MAX_ID_LENGTH, Entity, EntityKind

__all__ = ["Link", "Links"]

# Signatures for anything else, by the same key, are none for links.
_PURPOSE = "paystate.links.1"
# A name of 40 characters, an id of 200 that are each written as \uXXXX twice, in base64: more is
# no link of ours.
MOST_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Link:
    """What a link opens. `expires_s` is the Unix time, in seconds, at which it ends."""

    entity: Entity
    expires_s: int


class Links:
    """Makes and reads links by `keys`; `clock` gives the Unix time in seconds.

    Without a key none can be made, and none is believed.
    """

    def __init__(self, keys: Sequence[str], *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # itsdangerous signs with the last one.
        self._serializer = (
            URLSafeSerializer(
                list(reversed(keys)),
                salt=_PURPOSE,
                signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
            )
            if keys
            else None
        )

    def __repr__(self) -> str:
        return f"Links({'on' if self._serializer else 'off'})"

    def make(self, entity: Entity, ttl_s: int) -> tuple[str, Link]:
        """Return a token that opens `entity` for `ttl_s` seconds. Raises LinkRefused."""
        if self._serializer is None:
            raise LinkRefused("link_key_missing", "set LINK_KEY: links are signed with it")
        link = Link(entity, int(self._clock()) + ttl_s)
        return self._serializer.dumps([*entity, link.expires_s]), link

    def read(self, token: str) -> Link:
        """Return what `token` opens. Raises LinkRefused (link_invalid, link_expired)."""
        if self._serializer is None or len(token) > MOST_CHARACTERS or not token.isascii():
            raise _invalid()
        try:
            link = _link(self._serializer.loads(token))
        except (BadData, ValueError, TypeError):
            raise _invalid() from None  # the cause quotes the token
        if self.seconds_left(link) <= 0:
            raise LinkRefused("link_expired", "this link has expired; the shop can give a new one")
        return link

    def seconds_left(self, link: Link) -> float:
        """Return how long `link` is still good, in seconds; 0 or less if it is not."""
        return link.expires_s - self._clock()


def _link(content: Any) -> Link:
    """Return the link in what was signed. Raises ValueError or TypeError."""
    merchant, kind, own_id, expires_s = content
    if not (isinstance(merchant, str) and isinstance(own_id, str) and type(expires_s) is int):
        raise ValueError("not a link")
    if not 0 < len(own_id) <= MAX_ID_LENGTH:
        raise ValueError("not an id")
    return Link(Entity(merchant, EntityKind(kind), own_id), expires_s)


def _invalid() -> LinkRefused:
    return LinkRefused("link_invalid", "this link is damaged, or was not made here")
