"""How a sandbox behaves, each lever moved by one JSON object.

They raise ValueError, TypeError, KeyError or `decimal.InvalidOperation` for an object without
sense, and then nothing has changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from paystate.flutterwave.sandbox.fates import Fate, Mishap
from paystate.flutterwave.sandbox.faults import Fault, FaultMode, Limit, Limiter
from paystate.flutterwave.sandbox.provider import Sandbox

__all__ = ["api", "api_to_json", "delay_s_of", "fault", "policy_to_json", "webhooks"]

MOST_FORETOLD = 10_000

Body = dict[str, Any]


def fault(sandbox: Sandbox, body: Body) -> Body:
    """Make the APIs misbehave (``mode``), or the next webhooks (``webhook``, ``count``).

    `mode` lasts for ``seconds``, or until the next one. ``delay_s`` is how late an answer, or a
    webhook, is; ``retry_after_s`` the header of a 429 or 503, ``html`` has it come as a page,
    ``code`` is that of a page, and ``share`` how many calls meet it.
    """
    if "webhook" in body:
        return _foretell(sandbox, body)
    seconds, retry_after = body.get("seconds"), body.get("retry_after_s")
    found = Fault(
        mode=FaultMode(str(body.get("mode", "none"))),
        until=None if seconds is None else sandbox.clock() + float(seconds),
        delay_s=None if body.get("delay_s") is None else float(body["delay_s"]),
        retry_after_s=None if retry_after is None else int(retry_after),
        html=bool(body.get("html", False)),
        code=int(body.get("code", 200)),
        share=float(body.get("share", 1)),
    )
    sandbox.faults.set(found)
    return {"mode": found.mode.value, "until": found.until}


def webhooks(sandbox: Sandbox, body: Body) -> Body:
    """Change how webhooks are delivered: ``rates`` by their names, and each field of the policy."""
    sender = sandbox.sender
    policy = sender.policy
    given = {name: float(share) for name, share in dict(body.get("rates") or {}).items()}
    changes: Body = {"rates": replace(policy.rates, **given)}
    changes |= {
        name: float(body[name])
        for name in ("retry_interval_s", "max_delay_s", "hold_s")
        if name in body
    }
    if "retries" in body:
        changes["retries"] = int(body["retries"])
    if "form_encoded" in body:
        changes["form_encoded"] = bool(body["form_encoded"])
    sender.policy = replace(policy, **changes)
    return policy_to_json(sandbox)


def api(sandbox: Sandbox, body: Body) -> Body:
    """Change how the APIs answer: see `ApiSettings` and `Limit`; ``revoke_tokens`` does so now.

    ``calls_per_minute`` null takes the limit away; changing it begins a new count.
    """
    settings, limit = sandbox.api, sandbox.limiter.limit or Limit()
    if "not_found_code" in body:
        code = body["not_found_code"]
        settings = replace(settings, not_found_code=None if code is None else int(code))
    if "token_lifetime_s" in body:
        settings = replace(settings, token_lifetime_s=int(body["token_lifetime_s"]))
    if "cool_off_s" in body:
        limit = replace(limit, cool_off_s=float(body["cool_off_s"]))
    if "retry_after" in body:
        limit = replace(limit, retry_after=bool(body["retry_after"]))
    if body.get("calls_per_minute") is not None:
        limit = replace(limit, calls_per_minute=int(body["calls_per_minute"]))
    sandbox.api = settings
    if "calls_per_minute" in body:
        sandbox.limiter = Limiter(None if body["calls_per_minute"] is None else limit)
    elif sandbox.limiter.limit is not None:
        sandbox.limiter.limit = limit
    if body.get("revoke_tokens"):
        sandbox.revoke_tokens()
    return api_to_json(sandbox)


def policy_to_json(sandbox: Sandbox) -> Body:
    """Return how webhooks are delivered."""
    policy = sandbox.sender.policy
    return {
        "rates": {m.value: getattr(policy.rates, m.value) for m in Mishap},
        "retries": policy.retries,
        "retry_interval_s": policy.retry_interval_s,
        "max_delay_s": policy.max_delay_s,
        "hold_s": policy.hold_s,
        "form_encoded": policy.form_encoded,
    }


def api_to_json(sandbox: Sandbox) -> Body:
    """Return how the APIs answer."""
    now, limit = sandbox.clock(), sandbox.limiter.limit
    found = sandbox.faults.at(now)
    return {
        "fault": found.mode.value,
        "fault_until": found.until,
        "not_found_code": sandbox.api.not_found_code,
        "token_lifetime_s": sandbox.api.token_lifetime_s,
        "calls_per_minute": limit and limit.calls_per_minute,
        "cool_off_s": limit and limit.cool_off_s,
        "retry_after": limit and limit.retry_after,
        "cooling_s": round(sandbox.limiter.cooling_s(now), 3),
    }


def _foretell(sandbox: Sandbox, body: Body) -> Body:
    named = body["webhook"]
    mishaps = [Mishap(str(m)) for m in (named if isinstance(named, list) else [named])]
    count = int(body.get("count", 1))
    if not 1 <= count <= MOST_FORETOLD:
        raise ValueError(f"count is a whole number from 1 to {MOST_FORETOLD}")
    wanted = delay_s_of(body)
    delay_s = sandbox.sender.policy.max_delay_s if wanted is None else wanted
    sandbox.sender.foretell(Fate.of(mishaps, delay_s=delay_s), count=count)
    return {"webhook": [m.value for m in mishaps], "count": count}


def delay_s_of(body: Body) -> float | None:
    """Return ``delay_s`` of `body`, if it has one. Raises ValueError for what is no delay."""
    if body.get("delay_s") is None:
        return None
    value = float(body["delay_s"])
    if not 0 <= value <= 86_400:
        raise ValueError("delay_s is a number of seconds, up to a day")
    return value
