"""Who may ask, by token or by link, and how much they may send."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.settings.setting import setting
from paystate.values import base_address, secrets, whole


@dataclass(frozen=True, repr=False)
class Access:
    """Settings of access."""

    api_tokens: tuple[str, ...] = setting(
        "API_TOKENS",
        (),
        "Bearer tokens of the API, separated by commas: TOKEN may do everything, "
        "NAME:MERCHANT:read=TOKEN or NAME:MERCHANT:operate=TOKEN less. Without one the server "
        "binds to loopback only.",
        parse=secrets,
        secret=True,
    )
    api_calls_per_minute: int = setting(
        "API_CALLS_PER_MINUTE",
        0,
        "Calls of the API that each token may make in a minute, over all processes; then 429. Too "
        "low and a busy page of yours is refused. 0 is no limit.",
        parse=whole(0, 10_000_000),
    )
    link_keys: tuple[str, ...] = setting(
        "LINK_KEY",
        (),
        "Signs the links of customers' pages. Several, separated by commas, while you rotate it: "
        "the first one signs, links of the others are good until they expire. Without one there "
        "are no links.",
        parse=secrets,
        secret=True,
    )
    link_ttl_s: int = setting(
        "LINK_TTL_S",
        3600,
        "How long a customer's link is good, in seconds, where its maker does not say. Who has it "
        "sees the payment's status and nothing else. Lower, and a slow customer is sent back to "
        "the shop; higher, and a link that was passed on shows the status that long.",
        parse=whole(60, 604_800),
    )
    public_url: str = setting(
        "PUBLIC_URL",
        "",
        "Address under which customers reach the web process, for their links: "
        "https://pay.example.com. Empty: the one at which the link was asked for.",
        parse=base_address,
    )
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES",
        256 * 1024,
        "Largest webhook body, in bytes. Flutterwave's are below 10 KiB; a larger limit lets "
        "anyone make the process hold that much before the signature is checked.",
        parse=whole(1024, 16 * 1024 * 1024),
    )
