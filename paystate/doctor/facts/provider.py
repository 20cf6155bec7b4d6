"""What Flutterwave says to our credentials: one question about a payment that nobody has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

import aiohttp

from paystate.errors import PaystateError
from paystate.flutterwave.accounts import credentials_of, open_client
from paystate.flutterwave.gate import Gate, Purpose
from paystate.flutterwave.oauth import TokenSource
from paystate.merchants import Merchant
from paystate.settings import Settings
from paystate.updates import Kind

__all__ = ["ProviderFacts", "ask_provider"]

# Flutterwave's ids are eight digits and more by now. If somebody has this one it is not ours.
_NOBODYS_V3 = "1"
_NOBODYS_V4 = "chg_paystatedoctor"

# Merchants whose credentials are tried at the same time.
MOST_AT_ONCE = 8

# An answer in the API's own form, to the right key; that it is about nothing of ours was the idea.
_HEARD = frozenset({"wrong_payment"})


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What became of each question: "" for an answer, else the reason of the error.

    None where there are no credentials for it.
    """

    v3: str | None = None
    token: str | None = None
    v4: str | None = None


async def ask_provider(
    merchants: Mapping[str, Merchant],
    settings: Settings,
    gates: Mapping[str, Gate],
    session: aiohttp.ClientSession,
    *,
    timeout_s: float,
) -> dict[str, ProviderFacts]:
    """Ask with every merchant's credentials; the calls count in their budgets."""
    turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(merchant: Merchant) -> ProviderFacts:
        async with turns:
            return await _ask(merchant, settings, gates[merchant.name], session, timeout_s)

    answers = await asyncio.gather(*(ask(merchant) for merchant in merchants.values()))
    return dict(zip(merchants, answers, strict=True))


async def _ask(
    merchant: Merchant,
    settings: Settings,
    gate: Gate,
    session: aiohttp.ClientSession,
    timeout_s: float,
) -> ProviderFacts:
    credentials = credentials_of(merchant, settings)
    client = open_client(merchant, settings, session, gate, timeout_s=timeout_s)
    v3 = token = v4 = None
    if credentials.has_v3:
        v3 = await _reason(client.payment(Kind.CHARGE, _NOBODYS_V3, purpose=Purpose.AUDIT))
    if credentials.has_v4:
        tokens = TokenSource(
            session,
            token_url=credentials.token_url,
            client_id=credentials.client_id or "",
            client_secret=credentials.client_secret or "",
            timeout_s=timeout_s,
        )
        token = await _reason(tokens.token())
        if not token:
            v4 = await _reason(client.payment(Kind.CHARGE, _NOBODYS_V4, purpose=Purpose.AUDIT))
    return ProviderFacts(v3, token, v4)


async def _reason(question: Awaitable[object]) -> str:
    try:
        await question
    except PaystateError as e:
        return "" if e.reason in _HEARD else e.reason
    except ValueError:
        return "header"  # a credential that no header can carry; the text would quote it
    return ""
