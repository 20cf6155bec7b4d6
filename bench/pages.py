"""Look: how long after a webhook the pages of a real browser show it, and what they look like.

A headless Chromium has the board open and a customer's page for each payment, one after the other.
The page itself notes when its document changed, by the same clock as the sender. ``--pictures
FOLDER`` takes the pictures of the README.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench.browser import Browser, Page, find_chromium, open_browser
from bench.stage import SECRET, TOKEN, Stage, open_stage
from paystate.keys import DEFAULT_MERCHANT, Entity
from paystate.links import Links

__all__ = ["arguments", "measure", "table"]

KEY = "bench-link-key"
WEBHOOKS = 30
HANGS_S = 30.0

# Resolves with the time, in ms since the epoch, at which a condition holds in the document.
_WHEN = """
new Promise((done) => {
  const look = () => { if (%s) { seen.disconnect(); done(performance.timeOrigin + performance.now()); } };
  const seen = new MutationObserver(look);
  seen.observe(document, { subtree: true, childList: true, attributes: true });
  look();
})
"""  # noqa: E501
# So that the pictures show a day and not only successes.
_DAY = ("successful",) * 9 + ("failed", "failed", "pending", "pending", "voided")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--webhooks", type=int, default=WEBHOOKS, help="default: %(default)s")
    parser.add_argument("--pictures", type=Path, help="folder for PNGs of both pages")


class _Sender:
    """Flutterwave, as far as the pages are concerned."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def send(self, number: int, status: str, amount: Any = 2500) -> float:
        """Send a webhook; return when it was sent, in ms since the epoch."""
        data = {"id": number, "tx_ref": _order(number), "status": status, "amount": amount,
                "currency": "NGN"}  # fmt: skip
        body = json.dumps({"event": "charge.completed", "data": data}).encode()
        headers = {"verif-hash": SECRET, "Content-Type": "application/json"}
        address = f"{self.url}/webhooks/flutterwave"
        sent = time.time() * 1000
        async with self._session.post(address, data=body, headers=headers) as answer:
            assert answer.status == 200, answer.status
        return sent

    async def look_up(self, number: int) -> None:
        """Ask for a status as a shop does."""
        address = f"{self.url}/api/payments/{number}/status"
        async with self._session.get(address, headers={"Authorization": f"Bearer {TOKEN}"}):
            pass


def _order(number: int) -> str:
    return f"order-{number % 100_000:05}"


def _link(url: str, number: int) -> str:
    token, _ = Links([KEY]).make(Entity.reference(DEFAULT_MERCHANT, _order(number)), 600)
    return f"{url}/pay/{token}"


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; return percentiles in milliseconds."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    async with (
        open_stage() as stage,
        open_browser(chromium) as browser,
        aiohttp.ClientSession() as session,
    ):
        sender = _Sender(session, await _serve(stage))
        board = await browser.open_page(width=1280)
        await board.goto(f"{sender.url}/#token={TOKEN}")
        await board.until("document.querySelector('#live')?.dataset.tone === 'good'")
        shown: dict[str, list[float]] = {"customer": [], "board": []}
        for number in range(700_001, 700_001 + options.webhooks):
            await _one(browser, board, sender, number, shown)
        if options.pictures is not None:
            await _day(sender)
            await _pictures(browser, board, sender, options.pictures)
    return {
        "bench": "pages",
        "webhooks": options.webhooks,
        **{f"{page}_p50_ms": _percentile(times, 50) for page, times in shown.items()},
        **{f"{page}_most_ms": _percentile(times, 100) for page, times in shown.items()},
    }


async def _serve(stage: Stage) -> str:
    _, port = await stage.part("webhook_server", LINK_KEY=KEY, WEB_PROCESSES="2")
    await stage.part("worker", AUDIT_CHANGES_PER_S="20")
    return f"http://127.0.0.1:{port}"


async def _one(
    browser: Browser, board: Page, sender: _Sender, number: int, shown: dict[str, list[float]]
) -> None:
    """Note when the customer's page and the board show one payment as successful."""
    page = await browser.open_page(width=390)
    await page.goto(_link(sender.url, number))
    await page.until("document.querySelector('#live').dataset.live === 'yes'")
    row = f"document.querySelector('tr[data-payment=\"{number}\"]')?.dataset.status"
    watching = [
        asyncio.create_task(one.run(_WHEN % condition))
        for one, condition in (
            (page, "document.querySelector('#page').dataset.state === 'successful'"),
            (board, f"{row} === 'successful'"),
        )
    ]
    await asyncio.sleep(0.05)  # both look now
    sent = await sender.send(number, "successful")
    async with asyncio.timeout(HANGS_S):
        for name, at in zip(shown, await asyncio.gather(*watching), strict=True):
            shown[name].append(at - sent)
    await page.close()


async def _day(sender: _Sender) -> None:
    """Let a few payments come, some to be held, and have them asked for."""
    for number, status in enumerate(_DAY, 700_901):
        await sender.send(number, status)
        await asyncio.sleep(0.15)
    await sender.send(700_931, "successful", amount="twelve")
    for number in range(700_001, 700_015):
        for _ in range(40):
            await sender.look_up(number)


async def _pictures(browser: Browser, board: Page, sender: _Sender, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nobody waits
    await board.until("document.querySelectorAll('#events li').length === 1")
    await asyncio.sleep(6)  # for the figures to be told
    for name, width, height, dark in (
        ("board", 1180, 760, False),
        ("board-dark", 1180, 760, True),
        ("board-phone", 390, 844, True),
    ):
        await board.look(width=width, height=height, dark=dark)
        await board.screenshot(folder / f"{name}.png")
    for name, number, dark in (("pay", 700_941, False), ("pay-successful", 700_942, True)):
        page = await browser.open_page(width=390, dark=dark)
        await page.look(width=390, height=520, dark=dark)
        await page.goto(_link(sender.url, number))
        await page.until("document.querySelector('#live').dataset.live === 'yes'")
        await sender.send(number, "pending" if name == "pay" else "successful")
        wanted = "pending" if name == "pay" else "successful"
        await page.until(f"document.querySelector('#page').dataset.state === '{wanted}'")
        await page.screenshot(folder / f"{name}.png")


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    head = (
        f"{figures['webhooks']} webhooks, sent -> shown".ljust(36)
        + f"{'p50 ms':>10}{'most ms':>10}"
    )
    rows = (("the customer's page", "customer"), ("the operators' board", "board"))
    return "\n".join(
        [head, *(f"{name:36}{figures[f'{key}_p50_ms']:>10}{figures[f'{key}_most_ms']:>10}"
                 for name, key in rows)]
    )  # fmt: skip
