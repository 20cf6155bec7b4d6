"""A merchant is added to processes that run, and a file that cannot be used takes nobody away."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from paystate.flutterwave.signatures import V3_HEADER
from tests.harness import new_id
from tests.parts import start_part
from tests.unit import bodies

HANGS_S = 90
CANARY = "c4n4ry-shop-hash"
SHOP = f'[shop]\nsecret_hash = "{CANARY}"\ntokens = ["page:read=shop-reader"]\n'


def write(path: Path, text: str) -> None:
    """Replace the file at `path` whole."""
    draft = path.with_suffix(".new")
    draft.write_text(text, "utf-8")
    draft.replace(path)


async def test_web_and_worker_take_a_changed_file_over_and_refuse_a_broken_one(
    sqlite_url: str, valkey_url: str, tmp_path: Path
) -> None:
    """Neither is restarted, and what the merchant is sent is settled from then on."""
    file = tmp_path / "merchants.toml"
    write(file, "")
    settings = {
        "DATABASE_URL": sqlite_url,
        "CACHE_URL": valkey_url,
        "FLW_SECRET_HASH": "e2e-secret-hash",
        "API_TOKENS": "e2e-token",
        "MERCHANTS_FILE": str(file),
        "PORT": "0",
        "WORKER_PORT": "0",
    }
    async with AsyncExitStack() as stack:
        web, worker = await asyncio.gather(
            stack.enter_async_context(start_part("webhook_server", settings)),
            stack.enter_async_context(start_part("worker", settings)),
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def webhook(number: int) -> int:
            async with session.post(
                f"{web.url}/webhooks/flutterwave/shop",
                data=bodies.encode(bodies.v3_charge(id=number)),
                headers={V3_HEADER: CANARY, "Content-Type": "application/json"},
            ) as response:
                return response.status

        async def settled(number: int) -> None:
            url = f"{web.url}/api/payments/{number}/status?wait=10&after_version="
            version = 0
            async with asyncio.timeout(HANGS_S):
                while True:
                    async with session.get(
                        f"{url}{version}", headers={"Authorization": "Bearer shop-reader"}
                    ) as response:
                        shown = await response.json()
                    if shown["status"] == "successful":
                        return
                    version = shown["version"]

        first, second = new_id(), new_id()
        assert await webhook(first) == 404
        write(file, SHOP)
        await asyncio.gather(*(part.event("merchants_changed") for part in (web, worker)))
        assert await webhook(first) == 200
        await settled(first)
        write(file, SHOP + "[stall")
        await asyncio.gather(*(part.event("merchants_refused") for part in (web, worker)))
        assert await webhook(second) == 200
        await settled(second)
        assert not any(CANARY in part.log or "shop-reader" in part.log for part in (web, worker))
