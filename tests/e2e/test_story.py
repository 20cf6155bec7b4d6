"""A payment's whole life in `paystate dev`, on PostgreSQL and a cluster, by HTTP and commands.

All webhooks but those of refunds are dropped by the sandbox: what is known, paystate has asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from click.testing import CliRunner

from bench.topologies import Cluster
from paystate.cli.commands import cli
from paystate.cli.devdata import read_data_dir
from tests.e2e.test_dev import Dev, running

HANGS_S = 90
SHOP = {"currency": "NGN", "api": "v3"}


class Team:
    """Whoever works with a `paystate dev`: by HTTP, by commands, and at the sandbox."""

    def __init__(self, session: aiohttp.ClientSession, dev: Dev) -> None:
        data = read_data_dir(dev.folder)
        assert data.running is not None
        assert data.running.sandbox is not None
        self._session, self._dev = session, dev
        self._web, self._sandbox = data.running.web, data.running.sandbox
        self._headers = {"Authorization": f"Bearer {data.secrets['API_TOKENS']}"}
        # A command that is given a database takes nothing from the folder.
        names = ("FLW_SECRET_KEY", "FLW_CLIENT_ID", "FLW_CLIENT_SECRET")
        self._env = dev.env | {name: data.secrets[name] for name in names}
        self._env |= {
            "FLW_BASE_URL": f"{self._sandbox}/v3", "FLW_V4_BASE_URL": f"{self._sandbox}/v4",
            "FLW_TOKEN_URL": f"{self._sandbox}/token",
        }  # fmt: skip

    async def ask(self, method: str, path: str, body: Any = None, code: int = 200) -> Any:
        """Call the API."""
        async with self._session.request(
            method, self._web + path, json=body, headers=self._headers
        ) as answer:
            assert answer.status == code, await answer.text()
            return await answer.json(content_type=None)

    async def get(self, path: str) -> Any:
        """Ask the API."""
        return await self.ask("GET", path)

    async def at_flutterwave(self, path: str, **body: Any) -> Any:
        """Have something happen at the sandbox."""
        async with self._session.post(f"{self._sandbox}/sandbox/{path}", json=body) as answer:
            assert answer.status in (200, 201), await answer.text()
            return await answer.json()

    async def run(self, *args: str, code: int = 0) -> Any:
        """Run a command, as somebody beside the processes does; return its JSON."""
        command = [*args, "--json", "--data-dir", str(self._dev.folder)]
        ran = await asyncio.to_thread(CliRunner().invoke, cli, command, env=self._env)
        assert ran.exit_code == code, ran.output
        return json.loads(ran.stdout)

    async def until(self, path: str, **wanted: Any) -> Any:
        """Ask a status, by long polls, until it is as wanted."""
        async with asyncio.timeout(HANGS_S):
            shown = await self.get(path)
            while not wanted.items() <= shown.items():
                shown = await self.get(f"{path}?wait=20&after_version={shown['version']}")
        return shown

    async def details_until(self, number: str, **wanted: Any) -> Any:
        """Ask for a payment's details after each change of it until they are as wanted."""
        async with asyncio.timeout(HANGS_S):
            shown = await self.get(f"/api/payments/{number}")
            while not wanted.items() <= shown.items():
                after = shown["version"]
                await self.get(f"/api/payments/{number}/status?wait=20&after_version={after}")
                shown = await self.get(f"/api/payments/{number}")
        return shown


@asynccontextmanager
async def team(folder: Path, **settings: str) -> AsyncIterator[Team]:
    """Run a quiet `paystate dev` whose sandbox drops every webhook."""
    opening = running(folder, "--no-traffic", **settings)
    dev = await asyncio.to_thread(opening.__enter__)
    try:
        async with aiohttp.ClientSession() as session:
            found = Team(session, dev)
            await found.at_flutterwave("webhooks", rates={"drop": 1, "delay": 0, "reorder": 0})
            yield found
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)


async def test_a_payments_whole_life_without_a_single_webhook(
    postgres_url: str, cluster: Cluster, valkey_url: str, tmp_path: Path
) -> None:
    settings = {
        "DATABASE_URL": postgres_url, "CACHE_URL": cluster.url, "QUEUE_URL": valkey_url,
        "RECONCILE_EVERY_S": "1", "RECONCILE_AFTER_S": "0", "RECONCILE_LIST_EVERY_S": "10",
    }  # fmt: skip
    async with team(tmp_path / "data", **settings) as shop:
        number, customer = await _paid(shop)
        await _known_by_its_customer(shop, number, customer)
        await _disputed(shop, number)
        await _underpaid(shop)
        await _forgotten(shop, number, customer)


async def _paid(shop: Team) -> tuple[str, str]:
    """Expected, then paid, and found: each looked up by HTTP and by command."""
    wanted = {"tx_ref": "order-1", "amount": "1000", "currency": "NGN"}
    assert (await shop.ask("POST", "/api/payments", wanted, code=201))["status"] == "pending"
    assert (await shop.run("lookup", "--ref", "order-1"))["status"] == "pending"
    made = await shop.at_flutterwave("payments", tx_ref="order-1", amount=1000, **SHOP)
    number = made["id"]
    await shop.at_flutterwave(f"payments/{number}/settle", status="successful")
    shown = await shop.until("/api/payments/by-ref/order-1/status", status="successful")
    assert shown["payment_id"] == number
    details = await shop.get(f"/api/payments/{number}")
    assert [details[name] for name in ("status", "amount", "expected_amount", "mismatch")] == [
        "successful", "1000", "1000", None,
    ]  # fmt: skip
    looked = await shop.run("lookup", number)
    assert (looked["status"], looked["fresh"], looked["source"]) == ("successful", True, "cache")
    assert not (await shop.run("reconcile", "--all"))["put_off"]
    return number, made["customer_id"]


async def _known_by_its_customer(shop: Team, number: str, customer: str) -> None:
    profile = await shop.get(f"/api/customers/{customer}")
    assert profile["email"].endswith("@example.com")
    assert profile["payments"] == 1
    assert (await shop.run("customer", "show", customer))["email"] == profile["email"]
    page = await shop.get(f"/api/customers/{customer}/payments")
    assert [(one["payment_id"], one["status"]) for one in page["payments"]] == [
        (number, "successful")
    ]
    assert (await shop.run("customer", "payments", customer))["payments"] == page["payments"]


async def _disputed(shop: Team, number: str) -> None:
    """Refunded in part by webhook, and disputed without: it stays successful."""
    await shop.at_flutterwave("webhooks", rates={"drop": 0, "duplicate": 1})
    for amount, refunded in ((400, "400"), (100, "500")):
        await shop.at_flutterwave(f"payments/{number}/refund", amount=amount)
        await shop.details_until(number, refunded_amount=refunded, status="successful")
    await shop.at_flutterwave("webhooks", rates={"drop": 1, "duplicate": 0})
    await shop.at_flutterwave(f"payments/{number}/chargeback", amount=500, status="lost")
    details = await shop.get(f"/api/payments/{number}")
    async with asyncio.timeout(HANGS_S):
        while details["chargeback"] is None:  # a worker may have the list just then
            await shop.run("reconcile", "--all")
            details = await shop.get(f"/api/payments/{number}")
    assert (details["chargeback"], details["status"]) == ("completed", "successful")
    assert (details["refunded_amount"], details["refund_flags"]) == ("500", [])
    told = await shop.run("explain", number)
    last = [step for step in told["timeline"] if step["what"] == "received"][-1]
    assert (last["api"], last["type"]) == ("verify", "listing")
    assert told["overlays"] == details["overlays"]


async def _underpaid(shop: Team) -> None:
    """Held for a person, seen by what they would look with, and released."""
    wanted = {"tx_ref": "order-2", "amount": "1000", "currency": "NGN"}
    await shop.ask("POST", "/api/payments", wanted, code=201)
    made = await shop.at_flutterwave("payments", tx_ref="order-2", amount=10, **SHOP)
    await shop.at_flutterwave(f"payments/{made['id']}/settle", status="successful")
    await shop.until("/api/payments/by-ref/order-2/status", status="processing", held=True)
    (event,) = (await shop.run("dead-letters"))["events"]
    assert (event["payment_id"], event["reason"]) == (made["id"], "underpaid")
    assert (await shop.get("/api/events"))["events"] == [event]
    (preview,) = (await shop.run("replay", "--since", "1h", "--dry-run"))["events"]
    assert (preview["verdict"], preview["reason"]) == ("held", "underpaid")
    await shop.run("release", str(event["event"]), "--reason", "it was a gift")
    await shop.until("/api/payments/by-ref/order-2/status", status="successful", held=False)
    assert (await shop.run("dead-letters"))["events"] == []
    assert await shop.run("prune", "--dry-run")


async def _forgotten(shop: Team, number: str, customer: str) -> None:
    """Exported, then erased; the payment keeps its status."""
    exported = await shop.get(f"/api/customers/{customer}/export")
    assert [one["payment_id"] for one in exported["payments"]] == [number]
    assert (await shop.run("customer", "erase", customer, "--yes"))["erased"] is True
    gone = await shop.ask("GET", f"/api/customers/{customer}", code=410)
    assert gone["reason"] == "customer_erased"
    assert (await shop.get(f"/api/payments/{number}/status"))["status"] == "successful"
