"""What each worker does unasked: the audit of answers, and the reconciler."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.settings.setting import setting
from paystate.values import base_address, secret, whole


@dataclass(frozen=True, repr=False)
class Watching:
    """Settings of watching."""

    audit_changes_per_s: int = setting(
        "AUDIT_CHANGES_PER_S",
        2,
        "Changes a second that each worker's audit follows: looked up again 10 ms, 100 ms, 1 s and "
        "60 s after the news, four lookups and four to eight queries for each. More gives more "
        "nines sooner and costs that much; 0 follows none.",
        parse=whole(0, 100),
    )
    audit_round_s: int = setting(
        "AUDIT_ROUND_S",
        10,
        "Seconds between the rounds of each worker's audit. A round costs about eleven queries and "
        "two or three round trips to the cache, whatever is going on.",
        parse=whole(1, 3600),
    )
    audit_sample: int = setting(
        "AUDIT_SAMPLE",
        100,
        "Cached entries, and rows of the database, compared in each round. All of them have been "
        "gone through after their number / AUDIT_SAMPLE rounds: lower finds a fault later, higher "
        "costs a command for each entry. 0 compares none.",
        parse=whole(0, 5000),
    )
    audit_provider_calls_per_hour: int = setting(
        "AUDIT_PROVIDER_CALLS_PER_HOUR",
        10,
        "Settled payments an hour about which each worker's audit asks Flutterwave whether it says "
        "the same, out of PROVIDER_CALLS_PER_HOUR and only while 60 % of that are left. 0 asks "
        "about none.",
        parse=whole(0, 3600),
    )
    audit_url: str = setting(
        "AUDIT_URL",
        "",
        "Web process that the audit asks, as customers do: http://host:port. Empty: the audit runs "
        "the same code in its own process, and does not see what stands before the web processes.",
        parse=base_address,
    )
    audit_token: str | None = setting(
        "AUDIT_TOKEN",
        None,
        "Bearer token for AUDIT_URL; one that may read every merchant.",
        parse=secret,
        secret=True,
    )
    reconcile_every_s: int = setting(
        "RECONCILE_EVERY_S",
        60,
        "Seconds between the passes of each worker's reconciler, which asks about what is "
        "unsettled and reads Flutterwave's lists. A pass with nothing due costs a handful of "
        "queries. 0 turns it off: then a payment whose webhooks were lost settles when somebody "
        "looks it up.",
        parse=whole(0, 86_400),
    )
    reconcile_after_s: int = setting(
        "RECONCILE_AFTER_S",
        120,
        "Age in seconds at which an unsettled payment is first asked about; after that the gaps "
        "double. Lower finds lost webhooks sooner, and spends calls on payments that customers are "
        "still making.",
        parse=whole(0, 86_400),
    )
    reconcile_silence_s: int = setting(
        "RECONCILE_SILENCE_S",
        259_200,
        "Age in seconds at which what has still not settled is flagged for a person; what "
        "Flutterwave knows nothing of becomes unknown then, never failed.",
        parse=whole(60, 31_536_000),
    )
    reconcile_list_every_s: int = setting(
        "RECONCILE_LIST_EVERY_S",
        300,
        "Seconds between two readings of each merchant's lists, of charges and of transfers, which "
        "find payments of which no webhook ever came. A reading costs a call for every ten "
        "payments or so that were made since the last, and one for each list at least.",
        parse=whole(10, 86_400),
    )
    reconcile_list_back_s: int = setting(
        "RECONCILE_LIST_BACK_S",
        86_400,
        "How far back, in seconds, the very first reading of a list goes.",
        parse=whole(0, 31_536_000),
    )
