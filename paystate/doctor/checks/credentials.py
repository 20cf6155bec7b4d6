"""Secrets, looked at without being shown: copied whole, chosen well, each for one thing only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from paystate.doctor.case import LOOPBACKS, Case, Check
from paystate.doctor.findings import Verdict, each, fail, ok, warn
from paystate.keys import DEFAULT_MERCHANT
from paystate.merchants import Merchant

__all__ = ["CHECKS"]

_SINGLE = ("FLW_SECRET_KEY", "FLW_CLIENT_ID", "FLW_CLIENT_SECRET", "AUDIT_TOKEN")
_LISTS = ("FLW_SECRET_HASH", "API_TOKENS", "LINK_KEY")
_URLS = ("DATABASE_URL", "CACHE_URL", "QUEUE_URL", "FLW_BASE_URL", "FLW_V4_BASE_URL",
         "FLW_TOKEN_URL")  # fmt: skip
# Chosen by the operator, and so possibly too short; the others are issued.
_CHOSEN = ("FLW_SECRET_HASH", "API_TOKENS", "LINK_KEY")

_PLACEHOLDER = re.compile(
    r"change[-_ ]?(me|it|this)|your[-_ ].*|.*[-_]here|<.*>|\{.*\}|\$.*|\.{3,}|x{3,}|\*{3,}|todo|"
    r"secret|my[-_ ]?secret|password|passw0rd|token|example.*|sample.*|dummy|test|none|null|"
    r"a-(hash|token|secret)|operator-token|(current|previous)-hash|FLWSECK(_TEST)?-x+(-x)?|"
    r"123456.*|abc123.*",
    re.IGNORECASE,
)
# The built-in secrets of the sandbox, which everybody knows.
_SANDBOX = re.compile(r"sandbox-.*|FLWSECK_TEST-sandbox")

_QUOTES = frozenset("\"'`“”‘’")

_NARROWED = re.compile(r"([a-z0-9_-]{1,40}):([a-z0-9_-]{1,40}):(?:read|operate)=(.+)")
_NEARLY_NARROWED = re.compile(r"[^=]*:[^=]*=.+")


@dataclass(frozen=True, slots=True)
class _Secret:
    """One secret and where it was set."""

    where: str
    value: str = field(repr=False)


def _secrets(case: Case) -> Iterator[_Secret]:
    """Return each secret as it was set, spaces and all."""
    yield from _of_variables(case)
    for merchant in case.settings.merchants.values():
        if merchant.name != DEFAULT_MERCHANT:
            yield from _of_merchant(merchant)


def _of_variables(case: Case) -> Iterator[_Secret]:
    for name in _SINGLE:
        if value := case.environ.get(name):
            yield _Secret(name, value)
    for name in _LISTS:
        for part in case.environ.get(name, "").split(","):
            if part:
                narrowed = _NARROWED.fullmatch(part)
                yield _Secret(name, narrowed[3] if narrowed else part)


def _of_merchant(merchant: Merchant) -> Iterator[_Secret]:
    where = f"[{merchant.name}]"
    for part in merchant.secret_hashes:
        yield _Secret(f"{where} secret_hash", part)
    for key in ("secret_key", "client_id", "client_secret"):
        if value := getattr(merchant, key):
            yield _Secret(f"{where} {key}", value)
    for text in merchant.tokens:
        yield _Secret(f"{where} tokens", text.partition("=")[2])


def _all_of(case: Case, check: Callable[[_Secret], Verdict | None], well: str) -> list[Verdict]:
    """Return what `check` says of each secret, each place named once."""
    found = {v: None for s in _secrets(case) if (v := check(s)) is not None}
    return list(found) or [ok(well)]


def check_clean(case: Case) -> list[Verdict]:
    """No secret or address was copied with what stood around it."""
    given = [*_secrets(case), *(_Secret(n, case.environ.get(n, "")) for n in _URLS)]
    found = {v: None for secret in given if (v := _stray(secret)) is not None}
    return list(found) or [ok("no secret or address has anything stray around it")]


def _stray(secret: _Secret) -> Verdict | None:
    value, where = secret.value, secret.where
    if value != value.strip():
        kind = "a line break" if value.strip(" \t") != value.strip() else "a space"
        return fail(f"{where} begins or ends with {kind}", "set it again without; mind `echo -n`")
    if {value[:1], value[-1:]} & _QUOTES:
        return fail(
            f"{where} has quotation marks in its value",
            "set it without: env files and dashboards do not take them away",
        )
    if any(not c.isprintable() for c in value):
        return fail(
            f"{where} holds a character that cannot be seen", "type it, or copy it from elsewhere"
        )
    return None


def check_real(case: Case) -> list[Verdict]:
    """No secret is a placeholder of some documentation."""

    def check(secret: _Secret) -> Verdict | None:
        if _PLACEHOLDER.fullmatch(secret.value.strip()):
            return fail(f"{secret.where} is a placeholder", f"set the real one. {_SOURCES}")
        if case.is_exposed and _SANDBOX.fullmatch(secret.value.strip()):
            return fail(
                f"{secret.where} is the sandbox's own, which everybody knows",
                f"set the real one. {_SOURCES}",
            )
        return None

    return _all_of(case, check, "no secret is a placeholder")


_SOURCES = (
    "Flutterwave's are in its dashboard (Settings: API, Webhooks); for the others take what "
    "`openssl rand -hex 24` prints"
)


def check_length(case: Case) -> list[Verdict]:
    """No secret that somebody has chosen can be guessed."""

    def check(secret: _Secret) -> Verdict | None:
        if not secret.where.startswith(_CHOSEN) and "secret_hash" not in secret.where:
            return None
        length = len(secret.value.strip())
        found = f"{secret.where} has {length} characters"
        advice = "take a random one of 32 and more: `openssl rand -hex 24`"
        if length < 8:
            return fail(f"{found}: it can be guessed", advice)
        return warn(f"{found}, which is short", advice) if length < 16 else None

    return _all_of(case, check, "every secret of our choice is long enough")


def check_apart(case: Case) -> list[Verdict]:
    """No secret opens two doors: v3 webhooks carry theirs in plain."""
    places: dict[str, set[str]] = {}
    for secret in _secrets(case):
        if not secret.where.endswith(("CLIENT_ID", "client_id", "AUDIT_TOKEN")):
            places.setdefault(secret.value.strip(), set()).add(secret.where)
    return [
        fail(
            f"{' and '.join(sorted(wheres))} are one and the same secret",
            "give each its own: a v3 webhook shows its secret to every proxy on its way",
        )
        for wheres in places.values()
        if len(wheres) > 1
    ] or [ok("no secret is used for two things")]


def check_webhook_secret(case: Case) -> list[Verdict]:
    """Flutterwave's webhooks can be told from anybody's."""
    missing = [m.name for m in case.settings.merchants.values() if not m.secret_hashes]
    if "FLW_SECRET_HASH" in case.unusable:
        return [fail("FLW_SECRET_HASH cannot be read", "see settings.valid")]
    if missing == [DEFAULT_MERCHANT]:
        return [
            fail(
                "FLW_SECRET_HASH is not set: the web process does not start without",
                "take it from Flutterwave's dashboard, Settings, Webhooks (or choose one, and "
                "enter it there)",
            )
        ]
    wrong = [s.where for s in _secrets(case) if "HASH" in s.where.upper() and _is_key(s.value)]
    if wrong:
        return [
            fail(
                f"{wrong[0]} holds an API key of Flutterwave, not the webhook secret",
                "take the secret hash of the dashboard's page Webhooks; keys are FLW_SECRET_KEY",
            )
        ]
    return [ok("every merchant has a webhook secret")]


def _is_key(value: str) -> bool:
    return value.strip().startswith(("FLWSECK", "FLWPUBK"))


def check_tokens(case: Case) -> list[Verdict]:
    """Whoever asks must say who he is."""
    if case.environ.get("API_TOKENS"):
        return [ok("the API asks for a token")]
    if case.settings.host not in LOOPBACKS:
        return [
            fail(
                f"API_TOKENS is not set, and HOST is {case.settings.host}: the web process does "
                "not start so",
                "set a token (`openssl rand -hex 24`), or HOST=127.0.0.1",
            )
        ]
    return [
        warn(
            "API_TOKENS is not set: whoever reaches the port may do everything, and a proxy in "
            "front of it lets everybody in",
            "set a token: `openssl rand -hex 24`",
        )
    ]


def check_token_forms(case: Case) -> list[Verdict]:
    """Tokens give what they were meant to give, and not all of them everything."""
    tokens = [t for t in case.environ.get("API_TOKENS", "").split(",") if t]
    narrowed = [m for t in tokens if (m := _NARROWED.fullmatch(t))]
    found = each(
        [(f"token {i}", t) for i, t in enumerate(tokens, 1)],
        lambda token: _token_form(token, case),
        well="the tokens' forms are right",
    )
    if tokens and not narrowed and not any(v.outcome == "fail" for v in found):
        return [
            warn(
                "every token of API_TOKENS is an operator of every merchant",
                "give services that only ask a token like shop:default:read=TOKEN",
            )
        ]
    return found


def _token_form(token: str, case: Case) -> Verdict:
    narrowed = _NARROWED.fullmatch(token)
    if narrowed is None and _NEARLY_NARROWED.fullmatch(token):
        return fail(
            "it is nearly of the form NAME:MERCHANT:read=TOKEN, so all of its text is a token "
            "that may do everything",
            "write NAME:MERCHANT:read=TOKEN or NAME:MERCHANT:operate=TOKEN, names in lower case",
        )
    if narrowed is not None and narrowed[2] not in case.settings.merchants:
        return fail(
            f"it is bound to the merchant {narrowed[2]}, whom nobody knows",
            f"merchants are: {', '.join(case.settings.merchants)}",
        )
    return ok("the token's form is right")


def check_link_key(case: Case) -> Verdict:
    """Links of customers' pages can be signed."""
    if case.environ.get("LINK_KEY"):
        return ok("customers' links can be signed")
    return warn(
        "LINK_KEY is not set: there are no links to customers' pages",
        "set one (`openssl rand -hex 32`) if customers are to have them",
    )


CHECKS: dict[str, Check] = {
    "secrets.clean": check_clean,
    "secrets.real": check_real,
    "secrets.length": check_length,
    "secrets.apart": check_apart,
    "secrets.webhook": check_webhook_secret,
    "access.tokens": check_tokens,
    "access.token_forms": check_token_forms,
    "access.link_key": check_link_key,
}
