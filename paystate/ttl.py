"""How long the cache keeps what it knows. Kept is not served: the coherence protocol decides that.

A settled payment is asked for most in the day after it settled; a pending one soon becomes
something else, and keeping it longer would only hold memory. All times are settings (see
`paystate.settings`); these are the defaults, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from paystate.status import TERMINAL, Status

__all__ = ["DEFAULT_TTL", "TtlPolicy"]


@dataclass(frozen=True, slots=True)
class TtlPolicy:
    """Times to live in seconds, and the share of them that is spread at random.

    `jitter` is the largest part of a time that is *added* (0.1 keeps an entry for between 1.0 and
    1.1 times its TTL), so that a crowd of payments settled in one flash sale does not expire in
    one second and stampede the database.
    """

    terminal_s: int = 24 * 3600  # customers come back for a receipt within the day
    pending_s: int = 5 * 60
    processing_s: int = 60  # the provider's own word for "seconds from now"
    unknown_s: int = 2 * 60  # also "not found" at the provider: ask again soon, not at once
    jitter: float = 0.1
    customer_active_s: int = 30 * 60  # paying just now: what is known of them is about to change
    customer_recent_s: int = 2 * 3600
    customer_s: int = 6 * 3600
    history_s: int = 15 * 60

    def seconds(self, status: Status) -> int:
        """Return the time to live of an entry with `status`, in seconds and without jitter."""
        if status in TERMINAL:
            return self.terminal_s
        if status is Status.PENDING:
            return self.pending_s
        return self.processing_s if status is Status.PROCESSING else self.unknown_s

    def customer_seconds(self, idle_s: float) -> int:
        """Return the time to live of a profile, in seconds, `idle_s` after the last payment."""
        if idle_s <= 3600:
            return self.customer_active_s
        return self.customer_recent_s if idle_s <= 24 * 3600 else self.customer_s

    def milliseconds(self, status: Status, draw: float) -> int:
        """Return the time to live in milliseconds, spread by `draw`, a number in [0, 1)."""
        return int(self.seconds(status) * 1000 * (1 + self.jitter * draw))


DEFAULT_TTL = TtlPolicy()
