"""The variables as a whole: can they be read, are their names right, is nothing left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from paystate.doctor.case import Case, Check
from paystate.doctor.findings import Verdict, fail, ok, warn
from paystate.flutterwave.accounts import budget_of
from paystate.flutterwave.budget import PUBLISHED_PER_MINUTE
from paystate.settings import Settings

__all__ = ["CHECKS", "KNOWN"]

KNOWN = frozenset(spec.metadata["env"] for spec in fields(Settings) if "env" in spec.metadata)

# Read elsewhere than in the settings module, or harmless beside it.
_OTHERS = frozenset({"WEBHOOK_URL", "FLW_PUBLIC_KEY", "FLW_ENCRYPTION_KEY"})
_OURS = ("FLW_", "FLUTTERWAVE_", "PAYSTATE_")
# What platforms and other programs call the same thing.
_ALIASES = {
    "REDIS_URL": "CACHE_URL",
    "REDIS_TLS_URL": "CACHE_URL",
    "VALKEY_URL": "CACHE_URL",
    "POSTGRES_URL": "DATABASE_URL",
    "POSTGRESQL_URL": "DATABASE_URL",
    "PGURL": "DATABASE_URL",
}
# Near enough for one letter too few, too many or exchanged in a name of ten.
_CUTOFF = 0.88


def check_valid(case: Case) -> list[Verdict]:
    """Every value can be read, and none contradicts another."""
    advice = "mend the value; `paystate config` shows what each setting means"
    return [fail(problem, advice) for problem in case.problems] or [ok("every setting can be used")]


def check_known(case: Case) -> list[Verdict]:
    """No variable looks like one of ours and is none."""
    return list(_strangers(case)) or [ok("no variable has a name that is nearly one of ours")]


def _strangers(case: Case) -> Iterator[Verdict]:
    for name in sorted(case.environ.keys() - KNOWN - _OTHERS):
        meant = _meant(name)
        if meant is None:
            if name.startswith(_OURS):
                yield warn(
                    f"{name} is no setting: nothing reads it",
                    "compare its name with `paystate config`, or remove it",
                )
        elif case.environ.get(meant):
            yield warn(f"{name} is no setting; {meant}, which is set, is", f"remove {name}")
        else:
            yield fail(
                f"{name} is no setting, and {meant}, which is nearly its name, is not set",
                f"rename it to {meant}",
            )


def _meant(name: str) -> str | None:
    if name in _ALIASES:
        return None
    plain = name.strip().upper().removeprefix("PAYSTATE_").replace("FLUTTERWAVE_", "FLW_")
    if plain in KNOWN:
        return plain
    # TEST_PORT and DATABASE_URL_UNPOOLED are names of other programs, not slips of a pen.
    if any(plain.startswith(f"{k}_") or plain.endswith(f"_{k}") for k in KNOWN):
        return None
    return next(iter(get_close_matches(plain, KNOWN, n=1, cutoff=_CUTOFF)), None)


def check_defaults(case: Case) -> list[Verdict]:
    """The servers are named on purpose."""
    found = []
    for name, says in (
        ("DATABASE_URL", "it is an SQLite file below the folder that each process was started in"),
        ("CACHE_URL", "it is a Redis on this host"),
    ):
        if case.environ.get(name):
            continue
        alias = next((a for a, k in _ALIASES.items() if k == name and case.environ.get(a)), None)
        if alias:
            found.append(
                fail(
                    f"{name} is not set, but {alias} is: {says}", f"set {name} to what {alias} has"
                )
            )
        else:
            found.append(warn(f"{name} is not set: {says}", f"set {name} for every process"))
    return found or [ok("DATABASE_URL and CACHE_URL are set")]


def check_confirm(case: Case) -> Verdict:
    """What a webhook claims is confirmed with Flutterwave."""
    unconfirmed = [m.name for m in case.settings.merchants.values() if m.confirm == "never"]
    if not unconfirmed:
        return ok("webhooks are confirmed with Flutterwave")
    found = "CONFIRM=never: whoever has seen one v3 webhook can forge the next"
    if len(case.settings.merchants) > 1:
        found += f" (merchants: {', '.join(unconfirmed)})"
    advice = "set CONFIRM=always, and the credentials for it"
    return fail(found, advice) if case.is_exposed else warn(found, advice)


def check_body_limit(case: Case) -> Verdict:
    """Flutterwave's own bodies fit."""
    limit = case.settings.max_body_bytes
    if limit < 16 * 1024:
        return warn(
            f"MAX_BODY_BYTES={limit}: a long webhook of Flutterwave (up to 10 KiB) may not fit",
            "set it to 65536 or more, or leave the default",
        )
    return ok(f"webhooks of up to {limit // 1024} KiB are read")


def check_merchants_file(case: Case) -> Verdict:
    """Nobody else on this host can read the further merchants' secrets."""
    path = case.settings.merchants_file
    if path is None:
        return ok("there are no further merchants")
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return fail("MERCHANTS_FILE cannot be read", "name a file that this user may read")
    if mode & 0o004:
        return warn(
            "everybody on this host can read MERCHANTS_FILE, and the secrets in it",
            "chmod 640, or write env:NAME in the place of each secret",
        )
    return ok(f"MERCHANTS_FILE has {len(case.settings.merchants) - 1} merchants")


def check_budgets(case: Case) -> Verdict:
    """No budget of calls to Flutterwave is above what it takes in a minute."""
    one = case.settings
    if urlsplit(one.base_url).hostname != "api.flutterwave.com":
        return ok("Flutterwave itself is not asked")
    above = [
        name
        for name, merchant in one.merchants.items()
        if merchant.base_url is None and budget_of(merchant, one).per_minute > PUBLISHED_PER_MINUTE
    ]
    if above:
        return warn(
            f"more than {PUBLISHED_PER_MINUTE} calls a minute may go to Flutterwave for "
            f"{', '.join(above)}, which costs half an hour of silence",
            "set PROVIDER_CALLS_PER_MINUTE, or calls_per_minute of the merchant, to 300; or ignore "
            "this if Flutterwave allows your account more",
        )
    return ok(f"no budget is above {PUBLISHED_PER_MINUTE} calls a minute")


CHECKS: dict[str, Check] = {
    "settings.valid": check_valid,
    "settings.known": check_known,
    "settings.defaults": check_defaults,
    "settings.confirm": check_confirm,
    "settings.body_limit": check_body_limit,
    "settings.merchants_file": check_merchants_file,
    "settings.budgets": check_budgets,
}
