"""The figures of the board: plain functions of what was read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from paystate.audit import SCALES_S, nines
from paystate.cache.reports import Report, total
from paystate.changes import Change, iso_utc
from paystate.store.overview import Overview
from webhook_server.standing import FiguresJson, FleetJson, FreshnessJson, LatestJson

__all__ = ["fleet", "merchant_figures", "quantile"]

# Of the latest payments, those that are listed.
LISTED = 50

_LOOKUPS = "paystate_lookups_total"
_SOURCES = ("near", "cache", "database", "provider")
_CALLS = "paystate_provider_calls_total"
# Calls that no lookup has caused.
_UNASKED = ("confirm", "reconcile", "audit")
_AUDIT = "paystate_audit_lookups_total"


def quantile(sorted_values: Sequence[int], share: float) -> int | None:
    """Return the least value that `share` (0 to 1) of the values do not exceed; None of none."""
    if not sorted_values:
        return None
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]


def merchant_figures(found: Overview | None) -> FiguresJson:
    """Return what the database says, each figure None if it could not be asked."""
    if found is None:
        return {
            "as_of": None, "inbox": None, "visible": None, "statuses": None, "payments": None,
        }  # fmt: skip
    waits = found.waits_ms
    return {
        "as_of": iso_utc(found.now_ms),
        "inbox": {
            "open": found.open,
            "oldest_s": round(found.oldest_ms / 1000, 1),
            "held": found.held,
            "dead": found.dead,
        },
        "visible": {
            "events": len(waits),
            "p50_ms": quantile(waits, 0.5),
            "p95_ms": quantile(waits, 0.95),
            "p99_ms": quantile(waits, 0.99),
        },
        "statuses": Counter(change.status.value for change in found.payments),
        "payments": [_listed(change) for change in found.payments[:LISTED]],
    }


def _listed(change: Change) -> LatestJson:
    """Return a change without its cursor: whoever went on from there could miss others."""
    told = change.to_json()
    return {
        "payment_id": told["payment_id"],
        "tx_ref": told["tx_ref"],
        "kind": told["kind"],
        "merchant": told["merchant"],
        "status": told["status"],
        "previous_status": told["previous_status"],
        "terminal": told["terminal"],
        "version": told["version"],
        "previous_version": told["previous_version"],
        "changed_at": told["changed_at"],
    }


def fleet(reports: Sequence[Report]) -> FleetJson:
    """Return what all processes have counted since each began."""
    # The audit of a worker looks up too, what nobody has asked for.
    web = [report for report in reports if report.role == "web"]
    near, cache, database, provider = (total(web, _LOOKUPS, source=one) for one in _SOURCES)
    lookups = near + cache + database + provider
    asked = total(web, _CALLS, purpose="lookup")
    return {
        "lookups": {
            "total": round(lookups),
            "near": round(near),
            "cache": round(cache),
            "database": round(database),
            "provider": round(provider),
            "hit_rate": (near + cache) / lookups if lookups else None,
        },
        "provider_calls": {
            "lookup": round(asked),
            **{why: round(total(reports, _CALLS, purpose=why)) for why in _UNASKED},
            # Without us, every lookup would be one.
            "saved": round(max(0.0, lookups - asked)),
        },
        "webhooks": round(total(reports, "paystate_webhooks_total")),
        "streams": round(total(reports, "paystate_subscribers")),
        "violations": round(total(reports, "paystate_audit_violations_total")),
        "freshness": {scale: _freshness(reports, scale) for scale in SCALES_S},
        "processes": [
            {"name": r.name, "role": r.role, "since": iso_utc(r.since_ms)} for r in reports
        ],
    }


def _freshness(reports: Sequence[Report], scale: str) -> FreshnessJson:
    stale = round(total(reports, _AUDIT, scale=scale, outcome="stale"))
    checked = round(total(reports, _AUDIT, scale=scale, outcome="fresh")) + stale
    return {"checked": checked, "stale": stale, "nines": round(nines(checked, stale), 2)}
