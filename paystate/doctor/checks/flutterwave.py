"""Flutterwave: addresses, the right kind of key, v3 against v4, and what it says to us."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from paystate.doctor.case import LOOPBACKS, Case, Check
from paystate.doctor.facts.provider import ProviderFacts
from paystate.doctor.findings import Verdict, each, fail, known, ok, skipped, warn
from paystate.merchants import Merchant

__all__ = ["CHECKS"]

V3_HOST = "api.flutterwave.com"
V4_HOST = "f4bexperience.flutterwave.com"
V4_SANDBOX_HOST = "developersandbox-api.flutterwave.com"
_VARIABLES = {"FLW_BASE_URL": "base_url", "FLW_V4_BASE_URL": "v4_base_url",
              "FLW_TOKEN_URL": "token_url"}  # fmt: skip


def _merchants(case: Case) -> list[tuple[str, Merchant]]:
    return [(m.name, m) for m in case.settings.merchants.values()]


def check_v3_address(case: Case) -> Verdict:
    """FLW_BASE_URL is v3's."""
    parts = urlsplit(case.settings.base_url)
    if parts.hostname in (V4_HOST, V4_SANDBOX_HOST):
        return fail("FLW_BASE_URL is the address of v4", f"set https://{V3_HOST}/v3, or leave it")
    if not parts.path.endswith("/v3"):
        return fail("FLW_BASE_URL does not end in /v3", f"set https://{V3_HOST}/v3, or leave it")
    return ok("FLW_BASE_URL ends in /v3")


def check_v4_address(case: Case) -> Verdict:
    """FLW_V4_BASE_URL is v4's."""
    parts = urlsplit(case.settings.v4_base_url)
    if parts.hostname == V3_HOST or parts.path.endswith("/v3"):
        return fail("FLW_V4_BASE_URL is the address of v3", f"set https://{V4_HOST}, or leave it")
    return ok("FLW_V4_BASE_URL is not v3's")


def check_token_address(case: Case) -> Verdict:
    """FLW_TOKEN_URL is where tokens come from, and not an API."""
    if not urlsplit(case.settings.token_url).path.endswith("/token"):
        return fail(
            "FLW_TOKEN_URL does not end in /token: it is the whole address of the token endpoint",
            "leave it, or set https://idp.flutterwave.com/realms/flutterwave/protocol/"
            "openid-connect/token",
        )
    return ok("FLW_TOKEN_URL ends in /token")


def check_https(case: Case) -> list[Verdict]:
    """Credentials do not travel in plain."""
    plain = [
        name
        for name, attribute in _VARIABLES.items()
        if (url := urlsplit(getattr(case.settings, attribute))).scheme == "http"
        and url.hostname not in LOOPBACKS
    ]
    return [
        fail(f"{name} is http: the credentials travel in plain", "use https") for name in plain
    ] or [ok("Flutterwave is asked by https, or on this machine")]


def check_present(case: Case) -> list[Verdict]:
    """There are credentials, so that webhooks can be confirmed and lost ones noticed."""

    if any(name.startswith(("FLW_SECRET_KEY", "FLW_CLIENT")) for name in case.unusable):
        return [skipped("credentials cannot be read: see settings.valid")]

    def check(merchant: Merchant) -> Verdict:
        if merchant.secret_key or (merchant.client_id and merchant.client_secret):
            return ok("there are credentials for Flutterwave's APIs")
        found = (
            "there are no credentials: nothing can be confirmed, and whoever has seen one v3 "
            "webhook can forge the next"
        )
        advice = "set FLW_SECRET_KEY for v3, or FLW_CLIENT_ID and FLW_CLIENT_SECRET for v4"
        return fail(found, advice) if case.is_exposed else warn(found, advice)

    return each(_merchants(case), check, well="every merchant has credentials")


def check_pair(case: Case) -> Verdict:
    """v4's id and secret go together."""
    has = [bool(case.environ.get(n)) for n in ("FLW_CLIENT_ID", "FLW_CLIENT_SECRET")]
    if has[0] != has[1]:
        missing = "FLW_CLIENT_SECRET" if has[0] else "FLW_CLIENT_ID"
        return fail(f"{missing} is missing beside its other half", f"set {missing} too, or neither")
    return ok("v4's id and secret are both there" if has[0] else "v4 is not used")


def check_key_kind(case: Case) -> list[Verdict]:
    """The v3 key is a secret key, and of the same world as its address."""
    return each(
        _merchants(case), lambda m: _key_kind(m.secret_key, case), well="the v3 keys are right"
    )


def _key_kind(key: str | None, case: Case) -> Verdict:
    if not key:
        return ok("v3 is not used")
    key = key.strip()
    host = urlsplit(case.settings.base_url).hostname
    dashboard = "take the Secret Key of the dashboard's page API (FLWSECK-...)"
    if key.startswith("FLWPUBK"):
        return fail("FLW_SECRET_KEY holds a public key", dashboard)
    if key.startswith("FLWSECK") and not key.startswith(("FLWSECK-", "FLWSECK_TEST-")):
        return fail("FLW_SECRET_KEY holds an encryption key", dashboard)
    if key.startswith("FLWSECK_TEST-") and host == V3_HOST:
        return warn(
            "FLW_SECRET_KEY is a test key at Flutterwave's real address: it knows test payments "
            "only, and every real one stays unconfirmed",
            "in production set the live key (FLWSECK-...)",
        )
    if key.startswith("FLWSECK-") and host != V3_HOST:
        return fail(
            f"FLW_SECRET_KEY is a live key, and FLW_BASE_URL leads to {host}, which is not "
            "Flutterwave",
            f"set FLW_BASE_URL=https://{V3_HOST}/v3, or a test key; if the key has been sent "
            "there, make a new one",
        )
    if not key.startswith("FLWSECK") and host == V3_HOST:
        return fail("FLW_SECRET_KEY is no key of v3, which begin with FLWSECK", dashboard)
    return ok("the v3 key is a secret key that belongs to its address")


def check_one_world(case: Case) -> list[Verdict]:
    """v3 and v4 are both real, or both are tests."""

    def check(merchant: Merchant) -> Verdict:
        key, is_v4 = merchant.secret_key or "", bool(merchant.client_secret)
        live = key.startswith("FLWSECK-")
        v4_host = urlsplit(case.settings.v4_base_url).hostname
        if live and is_v4 and v4_host == V4_SANDBOX_HOST:
            return fail(
                "the v3 key is live, and v4 is asked at its sandbox",
                f"set FLW_V4_BASE_URL=https://{V4_HOST} and v4's live credentials",
            )
        return ok("v3 and v4 belong to one world")

    return each(_merchants(case), check, well="v3 and v4 belong to one world")


def check_apis_in_use(case: Case) -> list[Verdict]:
    """There are credentials for the API whose webhooks come."""
    inbox = known(known(case.database).inbox)
    found = list(_unmatched(case, dict(inbox.apis)))
    return found or [ok("there are credentials for every API whose webhooks have come")]


def _unmatched(case: Case, seen: dict[tuple[str, str], int]) -> Iterator[Verdict]:
    for name, merchant in case.settings.merchants.items():
        whose = "" if len(case.settings.merchants) == 1 else f"{name}: "
        v3, v4 = seen.get((name, "v3"), 0), seen.get((name, "v4"), 0)
        has_v4 = bool(merchant.client_id and merchant.client_secret)
        if v3 and not merchant.secret_key:
            yield fail(
                f"{whose}{v3} v3 webhooks have come in a week, and FLW_SECRET_KEY is not set",
                "set it: v3 proves its sender only, and their contents cannot be confirmed",
            )
        if v4 and not has_v4:
            yield fail(
                f"{whose}{v4} v4 webhooks have come in a week, and FLW_CLIENT_ID and "
                "FLW_CLIENT_SECRET are not set",
                "set them, from the dashboard of v4",
            )
        if v3 and merchant.confirm == "v3":
            yield warn(
                f"{whose}CONFIRM=v3 believes v4 signatures, and v3 webhooks come as well, which "
                "show the secret that signs v4",
                "set CONFIRM=always, or end v3's webhooks in the dashboard",
            )


# Reason of the error → what it means here, and what to do. {0} is the variable of the address.
_REASONS = {
    "credentials": ("Flutterwave refuses {1}",
                    "copy the credentials again from the dashboard; they may have been renewed"),
    "unreachable": ("nobody answers at {0}",
                    "check the address, the network, DNS and firewall from this host"),
    "timeout": ("no answer came in time from {0}", "check the network, or a proxy in between"),
    "html": ("a web page answers at {0}, not the API", "check the address; a proxy may answer"),
    "redirected": ("{0} redirects elsewhere", "set the address that it redirects to, with https"),
    "http_4xx": ("what answers at {0} does not know the question", "check the path of {0}"),
    "header": ("{1} has a character that HTTP cannot carry", "set the credentials again"),
}  # fmt: skip


def _answered(reason: str | None, variable: str, credentials: str) -> Verdict:
    if reason is None:
        return ok(f"not used: {credentials} is not set")
    if not reason:
        return ok(f"Flutterwave accepts {credentials}")
    if reason in ("rate_limited", "cooling_off", "budget_spent", "http_5xx"):
        return warn(
            f"Flutterwave could not be asked now: {reason.replace('_', ' ')}",
            "ask again later; if it stays so, look at PROVIDER_CALLS_PER_HOUR",
        )
    found, mend = _REASONS.get(
        reason, ("the answer of {0} makes no sense: " + reason, "check the address {0}")
    )
    return fail(found.format(variable, credentials), mend.format(variable, credentials))


def _judged(case: Case, part: str, variable: str, credentials: str) -> list[Verdict]:
    asked = known(case.provider)

    def check(facts: ProviderFacts) -> Verdict:
        return _answered(getattr(facts, part), variable, credentials)

    return each(list(asked.items()), check, well=f"Flutterwave accepts {credentials} of everyone")


def check_v3_answers(case: Case) -> list[Verdict]:
    """Flutterwave's v3 API answers to the key."""
    return _judged(case, "v3", "FLW_BASE_URL", "FLW_SECRET_KEY")


def check_token_granted(case: Case) -> list[Verdict]:
    """Flutterwave grants a token for v4's client."""
    return _judged(case, "token", "FLW_TOKEN_URL", "FLW_CLIENT_ID with FLW_CLIENT_SECRET")


def check_v4_answers(case: Case) -> list[Verdict]:
    """Flutterwave's v4 API answers to that token."""
    facts = known(case.provider)
    if any(f.token for f in facts.values()):
        return [skipped("no token was granted: see flutterwave.token_granted")]
    return _judged(case, "v4", "FLW_V4_BASE_URL", "the token of FLW_CLIENT_ID")


CHECKS: dict[str, Check] = {
    "flutterwave.v3_address": check_v3_address,
    "flutterwave.v4_address": check_v4_address,
    "flutterwave.token_address": check_token_address,
    "flutterwave.https": check_https,
    "flutterwave.present": check_present,
    "flutterwave.pair": check_pair,
    "flutterwave.key_kind": check_key_kind,
    "flutterwave.one_world": check_one_world,
    "flutterwave.apis_in_use": check_apis_in_use,
    "flutterwave.v3_answers": check_v3_answers,
    "flutterwave.token_granted": check_token_granted,
    "flutterwave.v4_answers": check_v4_answers,
}
