"""A merchant's account at Flutterwave: its credentials, its budget, and the client that uses them.

What the merchant does not say for itself is as in the settings.
"""

from __future__ import annotations

import aiohttp

from paystate.connections import CacheClient
from paystate.flutterwave.budget import Budget
from paystate.flutterwave.client import Credentials, FlutterwaveClient
from paystate.flutterwave.gate import Gate, LocalGate
from paystate.flutterwave.shared_gate import RedisGate
from paystate.keys import Keys
from paystate.merchants import Merchant
from paystate.settings import Settings
from paystate.updates import Api

__all__ = ["budget_of", "credentials_of", "open_client", "open_gate"]


def credentials_of(merchant: Merchant, settings: Settings) -> Credentials:
    """Return what `merchant` can ask with; of an API that it does not have, nothing."""
    v3, v4 = merchant.api.allows(Api.V3), merchant.api.allows(Api.V4)
    return Credentials(
        secret_key=merchant.secret_key if v3 else None,
        client_id=merchant.client_id if v4 else None,
        client_secret=merchant.client_secret if v4 else None,
        base_url=merchant.base_url or settings.base_url,
        v4_base_url=merchant.v4_base_url or settings.v4_base_url,
        token_url=merchant.token_url or settings.token_url,
    )


def budget_of(merchant: Merchant, settings: Settings) -> Budget:
    """Return how many calls may be made for `merchant`."""
    per_minute = merchant.calls_per_minute
    if per_minute is None:
        # A budget of its own for the hour has the minutes that go with it.
        per_minute = 0 if merchant.calls_per_hour else settings.provider_calls_per_minute
    return Budget(merchant.calls_per_hour or settings.provider_calls_per_hour, per_minute)


def open_gate(
    merchant: Merchant, settings: Settings, redis: CacheClient | None, keys: Keys
) -> Gate:
    """Return the gate before `merchant`'s account: of all processes, or without `redis` of one."""
    budget = budget_of(merchant, settings)
    hour, minute = budget.per_hour, budget.per_minute
    if redis is None:
        return LocalGate(hourly_budget=hour, per_minute=minute)
    return RedisGate(redis, keys, merchant.name, hourly_budget=hour, per_minute=minute)


def open_client(
    merchant: Merchant,
    settings: Settings,
    session: aiohttp.ClientSession,
    gate: Gate,
    *,
    timeout_s: float,
) -> FlutterwaveClient:
    """Return the client that asks for `merchant`."""
    return FlutterwaveClient(
        credentials_of(merchant, settings),
        session,
        gate,
        merchant=merchant.name,
        timeout_s=timeout_s,
    )
