"""Both pages as people meet them: a real Chromium, two web processes, a worker.

Where Chromium is missing they are skipped, and say so: it is a Debian package of
``deploy/debian-packages.txt``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from bench.browser import Browser, Page, find_chromium, open_browser
from bench.ports import free_port
from paystate.flutterwave.signatures import V3_HEADER
from paystate.store.migrate import upgrade_async
from tests.harness import new_id
from tests.parts import Part, start_part
from tests.servers import OwnValkey
from tests.unit import bodies

SECRET = "pages-secret-hash"
TOKEN = "pages-operator-token"
READER = "pages-reader-token"
CHROMIUM = find_chromium()

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium"),
]

# What an eye must be able to tell apart: 4.5 to 1, by the formula of WCAG 2.
CONTRAST = """
(selector) => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => (v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const measured = (e) => {
    const both = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const [low, high] = both.sort((a, b) => a - b);
    return [(high + .05) / (low + .05), e.tagName, e.className, e.textContent.slice(0, 30)];
  };
  const shown = (e) => e.offsetParent && e.textContent.trim();
  return [...document.querySelectorAll(selector)].filter(shown).map(measured);
}
"""

# Of axe-core's rules: WCAG 2.0 to 2.2, A and AA, and its best practices.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOKS = [{"width": width, "dark": dark} for width in (1280, 390) for dark in (False, True)]


@dataclass
class Site:
    """What runs, and who looks at it."""

    web: Part
    url: str
    browser: Browser
    session: aiohttp.ClientSession

    async def webhook(self, number: int, status: str, **more: Any) -> float:
        """Send a webhook; return when it was sent, in seconds since the epoch."""
        body = bodies.v3_charge(id=number, status=status, **{"tx_ref": f"order-{number}", **more})
        sent = time.time()
        async with self.session.post(
            f"{self.url}/webhooks/flutterwave", headers={V3_HEADER: SECRET},
            data=bodies.encode(body), skip_auto_headers=["Content-Type"],
        ) as answer:  # fmt: skip
            assert answer.status == 200
        return sent

    async def link(self, number: int) -> str:
        """Return the address of the page for a reference that may be yet to come."""
        async with self.session.post(
            f"{self.url}/api/payments/by-ref/order-{number}/link",
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as answer:
            url: str = (await answer.json())["url"]
        return url

    async def board(self, token: str = TOKEN, **look: Any) -> Page:
        """Sign in as a person does, and return the board."""
        page = await self.browser.open_page(**look)
        await page.goto(f"{self.url}/")
        await page.type("#token", token)
        await page.click("button.main")
        await page.until("document.querySelector('#live').dataset.tone === 'good'")
        return page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One set of processes and one browser for all of this module."""
    database = f"sqlite:///{tmp_path_factory.mktemp('pages') / 'pages.db'}"
    await upgrade_async(database)
    valkey = OwnValkey()
    valkey.start()
    port = free_port()
    settings = {
        "DATABASE_URL": database, "CACHE_URL": valkey.url, "FLW_SECRET_HASH": SECRET,
        "API_TOKENS": f"{TOKEN},eyes:default:read={READER}", "LINK_KEY": "pages-link-key",
        "PORT": str(port), "WORKER_PORT": "0", "WEB_PROCESSES": "2",
    }  # fmt: skip
    assert CHROMIUM is not None
    async with AsyncExitStack() as stack:
        stack.callback(valkey.close)
        web = await stack.enter_async_context(start_part("webhook_server", settings))
        await web.event("web_listening", processes=2)
        await stack.enter_async_context(start_part("worker", settings))
        browser = await stack.enter_async_context(open_browser(CHROMIUM))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Site(web, f"http://127.0.0.1:{port}", browser, session)


@pytest.fixture(scope="module")
def axe(node_packages: Path) -> str:
    """axe-core, which finds what keeps people out who do not see, or not well."""
    return (node_packages / "axe-core" / "axe.min.js").read_text("utf-8")


async def barriers(page: Page, axe: str, looks: Sequence[dict[str, Any]] = LOOKS) -> list[Any]:
    """Return what the checker finds in a page, in light and dark, on a desktop and a phone."""
    await page.run(f"{axe};0")
    found: list[Any] = []
    for look in looks:
        await page.look(**look)
        found += await page.run(
            f"axe.run(document, {{resultTypes: ['violations'], runOnly: {RULES}}}).then((result) =>"
            " result.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200),"
            " v.nodes[0].failureSummary.slice(0, 300)]))"
        )
    return found


async def seen_at(page: Page, condition: str) -> float:
    """Return when `condition` held in the page, in seconds since the epoch."""
    at: float = await page.until(f"({condition}) && Date.now() / 1000")
    return at


async def contrasts(page: Page, selector: str) -> None:
    """See that every text can be read."""
    found = await page.run(f"({CONTRAST})({selector!r})")
    assert found
    assert not [one for one in found if one[0] < 4.5]


async def test_a_customers_page_follows_its_payment_and_outlives_the_server(site: Site) -> None:
    """From before there is one until it is settled, without a reload; its status is in words."""
    number = new_id()
    page = await site.browser.open_page(width=390)
    await page.goto(await site.link(number))
    await page.run("window.stayed = true")
    heading = "[...document.querySelectorAll('h1')].find((e) => e.offsetParent).textContent"
    assert await page.run(heading) == "Waiting for your payment"
    await page.until("document.querySelector('#live').dataset.live === 'yes'")
    await site.webhook(number, "pending")
    await page.until("document.querySelector('#page').dataset.state === 'pending'")
    assert page.said == []

    # The server goes and comes back; what happens meanwhile is not missed.
    await site.web.stop()
    await page.until("document.querySelector('#live').dataset.live === 'no'")
    assert "last seen at" in await page.run("document.querySelector('#live').textContent")
    page.said.clear()  # that the server was away, in the browser's words
    await site.web.start()
    sent = await site.webhook(number, "successful")
    at = await seen_at(page, "document.querySelector('#page').dataset.state === 'successful'")
    print(f"the page showed it {at - sent:.3f} s after the webhook, its reconnection included")
    assert await page.run(heading) == "Payment successful"
    assert await page.run("document.title") == "Payment successful"
    assert await page.run("document.querySelector('#said').textContent") == "Payment successful"
    assert await page.run("window.stayed") is True
    assert not [line for line in page.said if "ERR_CONNECTION" not in line]
    assert str(number) not in await page.run("document.documentElement.outerHTML")

    for dark in (False, True):
        await page.look(width=390, dark=dark)
        await contrasts(page, "h1, section p, .steps li, #live")
    assert await page.run("document.documentElement.scrollWidth <= innerWidth")
    await page.close()


async def test_a_page_without_streams_polls(site: Site) -> None:
    """A proxy may hold streams back; the page hears of its payment all the same."""
    number = new_id()
    await site.webhook(number, "pending")
    page = await site.browser.open_page()
    await page.call("Network.setBlockedURLs", urls=["*/events"])
    await page.goto(await site.link(number))
    await page.until("document.querySelector('#live').dataset.live === 'yes'")
    await site.webhook(number, "successful")
    await page.until("document.querySelector('#page').dataset.state === 'successful'")
    await page.close()


@pytest.mark.parametrize("text", ["nonsense", "WyJkZWZhdWx0Il0.c2lnbmVk"])
async def test_a_link_that_does_not_work_is_a_friendly_page(site: Site, text: str) -> None:
    page = await site.browser.open_page(width=320)
    await page.goto(f"{site.url}/pay/{text}")
    assert "This link does not work" in await page.run("document.body.innerText")
    assert await page.run("document.querySelector('#live').hidden")
    assert [line for line in page.said if "403" not in line] == []
    await page.close()


async def test_the_board_shows_each_change_as_it_comes(site: Site) -> None:
    """Live, in both processes' figures, in the dark and on a phone; nothing is refused by it."""
    number = new_id()
    page = await site.board(width=1280)
    row = f"document.querySelector('tr[data-payment=\"{number}\"]')"
    sent = await site.webhook(number, "successful")
    at = await seen_at(page, f"{row}.dataset.status === 'successful'")
    print(f"the board showed it {at - sent:.3f} s after the webhook")
    assert await page.run(f"{row}.querySelector('.chip').textContent") == "successful"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for _ in range(40):  # each on a connection of its own, so both processes answer some
            async with session.get(
                f"{site.url}/api/payments/{number}/status",
                headers={"Authorization": f"Bearer {TOKEN}"},
            ) as answer:
                assert answer.status == 200
        counted = await counted_lookups(session, site.url)
    assert counted >= 40
    words = "document.querySelector('#hits-more').textContent"
    await page.until(f"{words} === 'of {counted} lookups'")

    await page.until("document.querySelectorAll('#parts [data-tone=good]').length === 6")
    assert await page.run("document.cookie") == ""
    everything = "dt, dd, h2, th, td, .chip, .legend li, .parts li, button, .pill, .quiet"
    for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
        await page.look(width=width, dark=dark)
        await contrasts(page, everything)
        assert await page.run("document.documentElement.scrollWidth <= innerWidth"), width
    unnamed = "[...document.querySelectorAll('button, input, select, textarea')].filter("
    unnamed += "(e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"
    assert await page.run(unnamed) == 0
    assert [line for line in page.said if "DocumentCookie" not in line] == []
    await page.close()


async def counted_lookups(session: aiohttp.ClientSession, url: str) -> int:
    """Return how many lookups the web processes have counted, by their own metrics."""
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return round(sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
                     if line.startswith("paystate_lookups_total{")))  # fmt: skip


async def test_an_operator_releases_what_is_held_and_says_why(site: Site) -> None:
    number = new_id()
    await site.webhook(number, "successful", amount="twelve")
    page = await site.board()
    card = (
        f"[...document.querySelectorAll('#events li')].find((e) => e.innerText.includes({number}))"
    )
    await page.until(f"{card}")
    await page.run(f"{card}.querySelector('[data-action=release]').id = 'this-one'")
    await page.click("#this-one")
    await page.until("document.querySelector('#ruling').open")
    await page.click("#ruling-do")  # without a reason nothing happens
    assert await page.run("document.querySelector('#ruling').open")
    await page.type("#why", "seen the receipt")
    await page.click("#ruling-do")
    await page.until(f"!document.querySelector('#ruling').open && !({card})")
    await page.until(
        f"document.querySelector('tr[data-payment=\"{number}\"]').dataset.status === 'successful'"
    )
    assert "released" in await page.run("document.querySelector('#said').textContent")
    async with site.session.get(
        f"{site.url}/api/payments/{number}/explain", headers={"Authorization": f"Bearer {TOKEN}"}
    ) as answer:
        told = await answer.json()
    [ruling] = [step for step in told["timeline"] if step["what"] == "ruling"]
    assert (ruling["by"], ruling["why"]) == ("operator", "seen the receipt")

    await page.click("#sign-out button")
    await page.until("document.querySelector('#token')")
    assert page.said == []
    await page.close()


async def test_who_may_only_read_is_given_no_buttons(site: Site) -> None:
    number = new_id()
    await site.webhook(number, "successful", amount="twelve")
    page = await site.board(READER)
    await page.until(
        "document.querySelector('#events-none').textContent.includes('look, not rule')"
    )
    assert await page.run("document.querySelectorAll('#events button').length") == 0
    assert "read only" in await page.run("document.querySelector('#you').textContent")
    assert page.said == []
    await page.close()


async def test_a_board_comes_back_with_its_server(site: Site) -> None:
    """A restart is no reason to sign in again, and nothing that happened is missing."""
    number = new_id()
    page = await site.board()
    await page.run("window.stayed = true")
    await site.web.stop()
    await page.until("document.querySelector('#live').dataset.tone !== 'good'")
    await site.web.start()
    await site.webhook(number, "failed")
    await page.until(
        f"document.querySelector('tr[data-payment=\"{number}\"]')?.dataset.status === 'failed'"
    )
    await page.until("document.querySelector('#live').dataset.tone === 'good'")
    assert await page.run("window.stayed") is True
    await page.close()


async def test_a_wrong_token_is_told_so(site: Site) -> None:
    page = await site.browser.open_page(width=390, dark=True)
    await page.goto(f"{site.url}/#token=wrong")
    await page.until("document.querySelector('#said').textContent.includes('none of the tokens')")
    assert await page.run("location.href") == f"{site.url}/sign-in"
    await contrasts(page, "h1, p, label, button")
    await page.close()


async def test_the_board_keeps_nobody_out(site: Site, axe: str) -> None:
    page = await site.browser.open_page()
    await page.goto(f"{site.url}/")
    assert await barriers(page, axe) == []
    await page.close()
    held, pending = new_id(), new_id()
    await site.webhook(held, "successful", amount="twelve")
    await site.webhook(pending, "pending")
    page = await site.board()
    for number in (held, pending):
        await page.until(f"document.querySelector('tr[data-payment=\"{number}\"]')")
    await page.until("document.querySelector('#events [data-action=release]')")
    assert await barriers(page, axe) == []
    await page.click("#events [data-action=release]")
    await page.until("document.querySelector('#ruling').open")
    assert await barriers(page, axe) == []
    await page.close()


async def test_a_customers_page_keeps_nobody_out(site: Site, axe: str) -> None:
    for status in ("pending", "failed", "successful"):
        number = new_id()
        await site.webhook(number, status)
        page = await site.browser.open_page()
        await page.goto(await site.link(number))
        await page.until(f"document.querySelector('#page').dataset.state === '{status}'")
        assert await barriers(page, axe) == []
        await page.close()
    page = await site.browser.open_page()
    await page.goto(f"{site.url}/pay/damaged")
    assert await barriers(page, axe) == []
    await page.run("document.body.append(document.createElement('button'))")
    assert {rule for rule, *_ in await barriers(page, axe)} == {"button-name"}  # it does look
    await page.close()


async def test_the_description_keeps_nobody_out(site: Site, axe: str) -> None:
    page = await site.browser.open_page()
    await page.goto(f"{site.url}/docs")
    assert await barriers(page, axe, [LOOKS[0], LOOKS[3]]) == []  # it is long
    await page.close()
