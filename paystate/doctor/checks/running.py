"""The processes as they run: the web process, its webhook address, the worker, the inbox."""

from __future__ import annotations

from urllib.parse import urlsplit

from paystate.doctor.case import LOOPBACKS, WEBHOOK_PATH, Case, Check
from paystate.doctor.facts.database import InboxFacts
from paystate.doctor.facts.endpoints import FILLER_BYTES, WebFacts, WorkerFacts
from paystate.doctor.findings import NotKnown, Verdict, fail, known, ok, skipped, warn

__all__ = ["CHECKS"]

_TROUBLES = {
    "timeout": "it does not answer in time",
    "tls": "its certificate is not valid for that name",
    "name": "that name does not exist",
    "unreachable": "nobody answers",
}


def _web(case: Case) -> WebFacts:
    facts = known(case.web)
    if facts.trouble:
        raise NotKnown("the web process was not reached")
    return facts


def check_web_reachable(case: Case) -> Verdict:
    """The web process answers where it was said to be."""
    facts = known(case.web)
    if not facts.trouble:
        return ok(f"{facts.url} answers")
    found = f"{facts.url}: {_TROUBLES[facts.trouble]}"
    if case.options.url:
        return fail(found, "check the address, the proxy and the firewall; is it running?")
    return warn(found, "start it, or name it: --url https://... (or WEBHOOK_URL)")


def _ready(facts: WebFacts | WorkerFacts, what: str, option: str) -> Verdict:
    if facts.ready is None:
        return fail(f"what answers at {facts.url} is not paystate's {what}", f"check {option}")
    if not facts.ready.get("ready"):
        return fail(
            f"it is not ready: database {facts.ready.get('database')}",
            "its log says more; it may have other settings than these",
        )
    bad = [f"{n} {facts.ready[n]}" for n in ("cache", "queue") if facts.ready.get(n) != "ok"]
    if bad:
        return warn(f"it is ready, but {' and '.join(bad)}", "see cache.reachable and queue.*")
    return ok("it is ready, with database, cache and queue")


def check_web_ready(case: Case) -> Verdict:
    """The web process can do its work."""
    return _ready(_web(case), "web process", "--url")


def check_webhook_https(case: Case) -> Verdict:
    """Webhooks travel encrypted: those of v3 have the secret in them."""
    if not case.options.url:
        return skipped("no --url: the address that Flutterwave calls is not known")
    parts = urlsplit(case.options.url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACKS:
        return fail(
            "the webhook address is http: every v3 webhook shows its secret on the way",
            "put a proxy with TLS in front, and enter the https address in the dashboard",
        )
    return ok("the webhook address is https, or on this machine")


def check_webhook_refuses(case: Case) -> list[Verdict]:
    """A webhook with a wrong signature is refused, at every merchant's address."""
    facts = _web(case)
    codes = {WEBHOOK_PATH: facts.refused}
    codes |= {f"{WEBHOOK_PATH}/{name}": code for name, code in facts.others.items()}
    return [v for path, code in codes.items() if (v := _refusal(path, code))] or [
        ok("webhooks with a wrong signature are refused (401)")
    ]


def _refusal(path: str, code: int) -> Verdict | None:
    if code == 401:
        return None
    if 200 <= code < 300:
        return fail(
            f"{path} answers {code} to a webhook with a wrong signature: it is not paystate, or "
            "something before it answers",
            "let the proxy hand the request on as it is",
        )
    if 300 <= code < 400:
        return fail(
            f"{path} redirects ({code}), which Flutterwave does not follow",
            "enter the address that it redirects to",
        )
    if code in (404, 405):
        return fail(
            f"{path} is not known there ({code})",
            "check --url, the proxy's paths, and MERCHANTS_FILE of the web process",
        )
    return fail(f"{path} answers {code} to a webhook with a wrong signature, not 401",
                "look at the proxy's and the web process's log")  # fmt: skip


def check_webhook_size(case: Case) -> Verdict:
    """A large webhook gets through to the web process."""
    facts = _web(case)
    if case.settings.max_body_bytes <= FILLER_BYTES:
        return skipped("MAX_BODY_BYTES is smaller than what would be sent")
    if facts.large == 413:
        return fail(
            f"a body of {FILLER_BYTES // 1024} KiB is refused as too large (413)",
            "raise the proxy's limit to MAX_BODY_BYTES, for /webhooks/",
        )
    return ok(f"a body of {FILLER_BYTES // 1024} KiB gets through")


def check_webhook_accepts(case: Case) -> list[Verdict]:
    """A webhook signed with each of our secrets is accepted, by either header."""
    facts = _web(case)
    if facts.accepted is None:
        return [skipped("not sent, since it leaves an event of an ignored type: give --send")]
    wrong = {which: code for which, code in facts.accepted.items() if code != 200}
    if not wrong:
        return [ok("signed webhooks are accepted, v3 and v4")]
    found = ", ".join(f"{which}: {code or 'cannot be sent'}" for which, code in wrong.items())
    if set(wrong.values()) == {401}:
        only_v3 = all(which.startswith("v3") for which in wrong)
        if only_v3 and len(wrong) * 2 == len(facts.accepted):
            return [fail(f"v3 webhooks are refused and v4 ones accepted ({found})",
                         "the proxy drops the header verif-hash: let it through")]  # fmt: skip
        return [fail(f"signed webhooks are refused ({found})",
                     "give the web process the same FLW_SECRET_HASH as here")]  # fmt: skip
    return [fail(f"signed webhooks are not accepted ({found})", "its log and /readyz say why")]


def check_worker_reachable(case: Case) -> Verdict:
    """A worker answers."""
    facts = known(case.worker)
    if not facts.trouble:
        return _ready(facts, "worker", "--worker-url")
    found = f"{facts.url}: {_TROUBLES[facts.trouble]}"
    if case.options.worker_url:
        return fail(found, "start the worker (python -m worker), or check --worker-url")
    return warn(found, "start the worker, or name it: --worker-url http://host:8081")


def _inbox(case: Case) -> InboxFacts:
    return known(known(case.database).inbox)


def check_sweeping(case: Case) -> Verdict:
    """Somebody settles what was recorded."""
    facts = _inbox(case)
    if facts.overdue:
        return fail(
            f"{facts.overdue} events have been due for over 30 s, and nobody works on them",
            "start a worker (python -m worker) on this database, or look at its log",
        )
    return ok(f"no event is overdue; {facts.open} are open")


def check_held(case: Case) -> Verdict:
    """Nothing waits for a person."""
    held = _inbox(case).held
    if held:
        return warn(
            f"{held} events are held: amount, currency or reference do not match",
            "look at each (`paystate dead-letters`, `paystate explain ID`, the dashboard), then "
            "release or reject it",
        )
    return ok("no event is held")


def check_dead(case: Case) -> Verdict:
    """Nothing was given up."""
    dead = _inbox(case).dead
    if dead:
        return warn(
            f"{dead} events were given up after their last attempt",
            "look at them, mend the cause and replay them: `paystate dead-letters`",
        )
    return ok("no event was given up")


CHECKS: dict[str, Check] = {
    "web.reachable": check_web_reachable,
    "web.ready": check_web_ready,
    "webhook.https": check_webhook_https,
    "webhook.refuses": check_webhook_refuses,
    "webhook.size": check_webhook_size,
    "webhook.accepts": check_webhook_accepts,
    "worker.reachable": check_worker_reachable,
    "worker.sweeping": check_sweeping,
    "inbox.held": check_held,
    "inbox.dead": check_dead,
}
