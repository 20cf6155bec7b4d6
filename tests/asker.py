"""A process of its own that asks Flutterwave when it is told to, for tests of what all share.

``python -m tests.asker`` reads lines of JSON: the cache and the provider's address, the budget, the
time that it is, and how many questions to ask at once for which purpose. It answers each with a
line that says how many came to what.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

from paystate.connections import connect
from paystate.errors import ProviderUnavailable
from paystate.flutterwave.client import Credentials, FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.flutterwave.shared_gate import RedisGate
from paystate.flutterwave.transport import provider_session
from paystate.keys import Keys
from paystate.updates import Kind

_now = 0.0


async def _open(order: dict[str, Any]) -> FlutterwaveClient:
    gate = RedisGate(
        connect(order["cache"], timeout_s=5), Keys(), "default", clock=lambda: _now,
        **order["budget"],
    )  # fmt: skip
    credentials = Credentials(secret_key=order["secret_key"], base_url=order["base_url"])
    # It ends with the process.
    session = await provider_session().__aenter__()
    return FlutterwaveClient(credentials, session, gate, timeout_s=30)


async def _outcome(client: FlutterwaveClient, purpose: Purpose) -> str:
    try:
        await client.payment(Kind.CHARGE, "1", purpose=purpose)
    except ProviderUnavailable as e:
        return e.reason
    return "answered"


async def main() -> None:
    """Do what each line says, until there are no more."""
    global _now  # noqa: PLW0603  # the clock of everything in this process
    clients: dict[str, FlutterwaveClient] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        _now = order["now"]
        if order["cache"] not in clients:
            clients[order["cache"]] = await _open(order)
        client, purpose = clients[order["cache"]], Purpose(order["purpose"])
        found = await asyncio.gather(*(_outcome(client, purpose) for _ in range(order["times"])))
        sys.stdout.write(json.dumps(Counter(found)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
