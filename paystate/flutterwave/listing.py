"""The provider's own lists: what to ask for, and what a page says.

v3's list takes days, v4's moments. Neither says in which order it comes, so who reads one does not
rely on any (see `ListPage.ordered`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from urllib.parse import urlencode

from paystate.errors import ProviderUnavailable
from paystate.flutterwave.envelopes import v3_data, v4_data
from paystate.flutterwave.objects import (
    parse_chargeback,
    parse_v3_transaction,
    parse_v3_transfer,
    parse_v4_charge,
    parse_v4_transfer,
)
from paystate.flutterwave.transport import Answer
from paystate.updates import Api, Overlay, PaymentUpdate

__all__ = ["ListPage", "Lists", "list_page", "list_path", "made_ms"]

# Whatever day it is where the provider counts days.
_ZONES = timedelta(hours=14)


class Lists(Enum):
    """What the provider lists."""

    CHARGES = "charges"
    TRANSFERS = "transfers"
    CHARGEBACKS = "chargebacks"


_PATHS = {
    (Api.V3, Lists.CHARGES): "/transactions",
    (Api.V3, Lists.TRANSFERS): "/transfers",
    (Api.V4, Lists.CHARGES): "/charges",
    (Api.V4, Lists.TRANSFERS): "/transfers",
    (Api.V3, Lists.CHARGEBACKS): "/chargebacks",
    (Api.V4, Lists.CHARGEBACKS): "/chargebacks",
}
_PARSERS = {
    (Api.V3, Lists.CHARGES): parse_v3_transaction,
    (Api.V3, Lists.TRANSFERS): parse_v3_transfer,
    (Api.V4, Lists.CHARGES): parse_v4_charge,
    (Api.V4, Lists.TRANSFERS): parse_v4_transfer,
    (Api.V3, Lists.CHARGEBACKS): parse_chargeback,
    (Api.V4, Lists.CHARGEBACKS): parse_chargeback,
}


@dataclass(frozen=True, slots=True)
class ListPage:
    """Some payments, or chargebacks, of a list. `unreadable` counts objects without a usable id.

    `pages` is how many there are as far as the provider says, None if it does not.
    """

    updates: tuple[PaymentUpdate, ...]
    unreadable: int
    pages: int | None
    overlays: tuple[Overlay, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing on it."""
        return not (self.updates or self.overlays or self.unreadable)

    def ordered(self, before_ms: int | None) -> int | None:
        """Return when its last payment was made, if all go back in time from `before_ms` on.

        None if they do not, or do not say. In ms since the epoch.
        """
        if self.overlays:
            return None
        for update in self.updates:
            made = made_ms(update)
            if made is None or self.unreadable or (before_ms is not None and made > before_ms):
                return None
            before_ms = made
        return before_ms


def made_ms(update: PaymentUpdate) -> int | None:
    """Return when a payment was made, in ms since the epoch, None if it does not say."""
    if update.created_at is None:
        return None
    return round(datetime.fromisoformat(update.created_at).timestamp() * 1000)


def list_path(api: Api, which: Lists, since_ms: int, until_ms: int, page: int) -> str:
    """Return path and query of a page (from 1) of what was made from `since_ms` to `until_ms`.

    Times are ms since the epoch.
    """
    since, until = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (since_ms, until_ms))
    if api is Api.V3:
        days = {
            "from": (since - _ZONES).date().isoformat(),
            "to": (until + _ZONES).date().isoformat(),
        }
        return f"{_PATHS[api, which]}?" + urlencode({**days, "page": page})
    moments = {
        "from": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "to": (until + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return f"{_PATHS[api, which]}?" + urlencode({**moments, "page": page})


def list_page(api: Api, which: Lists, answer: Answer) -> ListPage:
    """Return what a page says. Raises as `v3_data` does."""
    body = answer.body
    items = body.get("data") if isinstance(body, dict) and answer.code < 400 else None
    if not isinstance(items, list):
        # Nothing there is said in the same way as "no such payment".
        if (v3_data if api is Api.V3 else v4_data)(answer) is not None:
            raise ProviderUnavailable("unreadable", "an answer that is no list")
        items = []
    parse: Callable[[Any], PaymentUpdate | Overlay | None] = _PARSERS[api, which]
    found = [parse(item) if isinstance(item, dict) else None for item in items]
    updates = tuple(one for one in found if isinstance(one, PaymentUpdate))
    overlays = tuple(one for one in found if isinstance(one, Overlay))
    unreadable = len(found) - len(updates) - len(overlays)
    return ListPage(updates, unreadable, _pages(body), overlays)


def _pages(body: Any) -> int | None:
    value = body
    for name in ("meta", "page_info", "total_pages"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if type(value) is int else None
