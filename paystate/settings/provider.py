"""What the processes know of Flutterwave: the first merchant's secrets, addresses and budget."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.merchants import ApiVersion, Confirm, api_version, confirm
from paystate.settings.setting import setting
from paystate.values import base_address, secret, secrets, whole


@dataclass(frozen=True, repr=False)
class Provider:
    """Settings of the provider."""

    secret_hashes: tuple[str, ...] = setting(
        "FLW_SECRET_HASH",
        (),
        "The webhook secret of Flutterwave's dashboard. Two, separated by a comma, while you "
        "rotate it. The web process does not start without one.",
        parse=secrets,
        secret=True,
    )
    secret_key: str | None = setting(
        "FLW_SECRET_KEY", None, "v3 secret key for the verify API.", parse=secret, secret=True
    )
    client_id: str | None = setting("FLW_CLIENT_ID", None, "v4 OAuth client id.", parse=secret)
    client_secret: str | None = setting(
        "FLW_CLIENT_SECRET", None, "v4 OAuth client secret.", parse=secret, secret=True
    )
    base_url: str = setting(
        "FLW_BASE_URL",
        "https://api.flutterwave.com/v3",
        "Base of the v3 API.",
        parse=base_address,
    )
    v4_base_url: str = setting(
        "FLW_V4_BASE_URL",
        "https://f4bexperience.flutterwave.com",
        "Base of the v4 API; its sandbox is https://developersandbox-api.flutterwave.com.",
        parse=base_address,
    )
    token_url: str = setting(
        "FLW_TOKEN_URL",
        "https://idp.flutterwave.com/realms/flutterwave/protocol/openid-connect/token",
        "Where v4 access tokens come from.",
        parse=base_address,
    )
    confirm: Confirm = setting(
        "CONFIRM",
        Confirm.ALWAYS,
        "Which webhooks the verify API must confirm where credentials are set: always, v3 (trust "
        "signed v4 bodies) or never (whoever saw one v3 webhook can forge the next).",
        parse=confirm,
    )
    api: ApiVersion = setting(
        "FLW_API",
        ApiVersion.ANY,
        "Which of Flutterwave's APIs the account has: any, v3 or v4. With v4, webhooks signed as "
        "v3's are refused: whoever has seen one of those knows the secret.",
        parse=api_version,
    )
    merchants_file: str | None = setting(
        "MERCHANTS_FILE",
        None,
        "TOML file with one table for each further merchant: secret_hash, secret_key, client_id, "
        "client_secret, confirm, api, tokens, budgets and addresses (docs/merchants.md); a value "
        "env:NAME is read from the environment. What changes in it is in force two seconds later.",
    )
    provider_calls_per_hour: int = setting(
        "PROVIDER_CALLS_PER_HOUR",
        15_000,
        "Budget of calls to Flutterwave for each merchant and hour, shared by all processes. The "
        "published limit is 300 a minute, then half an hour of silence.",
        parse=whole(1, 10_000_000),
    )
    provider_calls_per_minute: int = setting(
        "PROVIDER_CALLS_PER_MINUTE",
        0,
        "Calls to Flutterwave in any minute, for each merchant; a seventh of them in ten seconds. "
        "Too low makes bursts of webhooks wait, too high runs into the published limit. 0: 300, or "
        "a fiftieth of PROVIDER_CALLS_PER_HOUR if that is more.",
        parse=whole(0, 1_000_000),
    )
    provider_timeout_s: int = setting(
        "PROVIDER_TIMEOUT_S",
        8,
        "Longest wait for one answer of Flutterwave, in seconds, further tries included; below the "
        "10 s of a job, and far below the 28 s after which Flutterwave itself gives up.",
        parse=whole(1, 9),
    )
    pending_recheck_s: int = setting(
        "PENDING_RECHECK_S",
        60,
        "A payment that is asked for and has been pending this long is checked with Flutterwave, "
        "at most once in this time. Lower spends the budget, higher waits longer for a webhook "
        "that was lost.",
        parse=whole(5, 86_400),
    )
    not_found_s: int = setting(
        "NOT_FOUND_S",
        120,
        "How long 'not found' at Flutterwave is believed, in seconds.",
        parse=whole(1, 86_400),
    )
