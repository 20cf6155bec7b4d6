"""How long things are kept: statuses and documents in the cache, rows in the database."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.settings.setting import setting
from paystate.values import whole


@dataclass(frozen=True, repr=False)
class Keeping:
    """Settings of keeping."""

    pending_lease_ms: int | None = setting(
        "PENDING_LEASE_MS",
        None,
        "How long a status that is not final may be served from the cache after it was proven. "
        "Default 1000 with one primary, 0 (strict: only `successful` is served from the cache) "
        "with Cluster or Sentinel. It bounds how old a pending can be after a split brain, and "
        "must be far shorter than a restart of the cache takes. Webhooks, the worker and lookups "
        "of what has just changed wait one and a half leases where the cache is away, so it is "
        "5000 at most.",
        parse=whole(0, 5000),
    )
    near_size: int = setting(
        "NEAR_SIZE",
        100_000,
        "Successful answers that each web process keeps in itself, for 30 s at most and only while "
        "it hears of changes; about 1 kB each. 0 asks the cache for every one.",
        parse=whole(0, 10_000_000),
    )
    ttl_terminal_s: int = setting(
        "TTL_TERMINAL_S",
        86_400,
        "Kept in the cache once successful, failed or voided, in seconds.",
        parse=whole(1, 31_536_000),
    )
    ttl_pending_s: int = setting(
        "TTL_PENDING_S", 300, "Kept while pending, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_processing_s: int = setting(
        "TTL_PROCESSING_S", 60, "Kept while processing, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_unknown_s: int = setting(
        "TTL_UNKNOWN_S", 120, "Kept while unknown, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_customer_active_s: int = setting(
        "TTL_CUSTOMER_ACTIVE_S",
        1800,
        "How long a customer's profile is kept in the cache if they paid within the hour, in "
        "seconds. Whatever is kept, a payment's news makes it worthless; longer spares Flutterwave "
        "questions and keeps e-mail and phone in the cache for longer.",
        parse=whole(1, 31_536_000),
    )
    ttl_customer_recent_s: int = setting(
        "TTL_CUSTOMER_RECENT_S",
        7200,
        "The same if they paid within the day, in seconds.",
        parse=whole(1, 31_536_000),
    )
    ttl_customer_s: int = setting(
        "TTL_CUSTOMER_S", 21_600, "The same if not, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_history_s: int = setting(
        "TTL_HISTORY_S",
        900,
        "How long a page of a customer's payments is kept, in seconds. It holds no status.",
        parse=whole(1, 31_536_000),
    )
    inbox_keep_days: int = setting(
        "INBOX_KEEP_DAYS",
        90,
        "Days for which what an event said is kept after its arrival, once it has ended; then its "
        "row stays, without it. Too low: `paystate explain` cannot say what came. Too high: the "
        "inbox grows by about 1 kB for each webhook. 0 keeps all.",
        parse=whole(0, 36_500),
    )
    event_keys_keep_days: int = setting(
        "EVENT_KEYS_KEEP_DAYS",
        400,
        "Days after which the row of an ended event goes too, and with it its key. Too low: a "
        "delivery that comes later still counts as new, and costs a question to Flutterwave. Too "
        "high: about 300 bytes for each webhook. 0 keeps all; else at least INBOX_KEEP_DAYS.",
        parse=whole(0, 36_500),
    )
    changes_keep_days: int = setting(
        "CHANGES_KEEP_DAYS",
        90,
        "Days for which the change log goes back. Too low: a subscriber that was away longer gets "
        "410 and has to read all statuses anew. Too high: the log grows by about 300 bytes for "
        "each change. 0 keeps all.",
        parse=whole(0, 36_500),
    )
