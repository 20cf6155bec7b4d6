"""What one pass of the reconciler did, and whom it left for the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from paystate.updates import Api

__all__ = ["ENOUGH", "Report"]

# The provider has had enough of us: nothing more of that merchant now, by either API.
ENOUGH = frozenset({"budget_spent", "pace_spent", "cooling_off", "rate_limited"})


@dataclass(slots=True)
class Report:
    """What a pass did. `put_off` says which merchants were left for later, and why.

    A merchant of whom one API alone was left is in it with that: ``shop:v3``.

    `found` and `found_in_lists` are changes that nobody else had told of: by asking, and by reading
    lists.
    """

    checked: int = 0
    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    found: int = 0
    flagged: int = 0
    pages: int = 0
    listed: int = 0
    found_in_lists: int = 0
    put_off: dict[str, str] = field(default_factory=dict)

    def leave(self, merchant: str, api: Api | None, reason: str, apis: Collection[Api]) -> None:
        """Leave a merchant for later, or one of the `apis` that it has if that is all it is.

        What is wrong with one is not wrong with the other, but for budget and cool-off, which are
        the account's.
        """
        others = [one for one in apis if one is not api and f"{merchant}:{one}" not in self.put_off]
        if api is not None and others and reason not in ENOUGH:
            self.put_off[f"{merchant}:{api}"] = reason
            return
        for one in apis:
            self.put_off.pop(f"{merchant}:{one}", None)
        self.put_off[merchant] = reason

    def left(self, merchant: str, api: Api | None) -> str | None:
        """Return why nothing more is asked of a merchant's `api` in this pass, if that is so."""
        return self.put_off.get(merchant) or self.put_off.get(f"{merchant}:{api}")

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {
            "checked": self.checked,
            "asked": self.asked,
            "outcomes": dict(self.outcomes),
            "found": self.found,
            "flagged": self.flagged,
            "pages": self.pages,
            "listed": self.listed,
            "found_in_lists": self.found_in_lists,
            "put_off": self.put_off,
        }
