"""A headless Chromium, driven over its DevTools protocol: no driver program and no dependency.

It is used as a person uses it: pages are opened, clicked and typed into, and what they say on the
console is heard. One browser serves many pages.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bench.servers import before_exec

__all__ = ["Browser", "BrowserBroke", "Page", "find_chromium", "open_browser"]

# Not a measure of speed: without it, who waits for what never comes would wait for ever.
HANGS_S = 60.0

_FLAGS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-proxy-server",
    "--hide-scrollbars", "--mute-audio", "--password-store=basic",
)  # fmt: skip


# How a script ends whose page is left while it runs.
_LEFT = ("navigated or closed", "context was destroyed", "Cannot find", "Promise was collected")


class BrowserBroke(Exception):
    """A command failed, or a script threw."""


def find_chromium() -> str | None:
    """Return where Chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One tab. `said` has what went wrong in it: errors, warnings, refusals of its policy."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.said: list[str] = []
        self.loaded = asyncio.Event()

    async def call(self, method: str, **parameters: Any) -> Any:
        """Run a command of the protocol."""
        return await self._browser.call(method, self._session, **parameters)

    def hear(self, method: str, event: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.said.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            entry = event["entry"]
            self.said.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Audits.issueAdded":
            self.said.append(str(event["issue"]))

    async def goto(self, url: str) -> None:
        """Open `url` and wait until it has loaded."""
        self.loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserBroke(answer["errorText"])
        async with asyncio.timeout(HANGS_S):
            await self.loaded.wait()

    async def run(self, script: str) -> Any:
        """Return what a JavaScript expression gives; a promise is waited for."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise BrowserBroke(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until a JavaScript expression is true, whatever page is open then; return it."""
        looking = (
            "new Promise((done) => { const look = () => { let value = null;"
            f" try {{ value = ({script}); }} catch {{ value = null; }}"
            " if (value) done(value); else setTimeout(look, 10); }; look(); })"
        )
        try:
            async with asyncio.timeout(HANGS_S):
                while True:
                    try:
                        return await self.run(looking)
                    except BrowserBroke as e:  # another page took this one's place
                        if not any(words in str(e) for words in _LEFT):
                            raise
                        await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise BrowserBroke(f"never: {script}\n{text}\n{self.said}") from None

    async def click(self, selector: str) -> None:
        """Click into the middle of the first element that matches, once it can be seen."""
        where = await self.until(
            f"(() => {{ const e = document.querySelector({selector!r});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect();"
            " return b.width && [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left",
                clickCount=1,
            )  # fmt: skip

    async def type(self, selector: str, text: str) -> None:
        """Click into a field and type."""
        await self.click(selector)
        await self.call("Input.insertText", text=text)

    async def look(self, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Set the window's size in CSS pixels, and the person's preference for dark pages."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the `whole` page."""
        answer = await self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole,
            **({"clip": await self._whole()} if whole else {}),
        )  # fmt: skip
        path.write_bytes(base64.b64decode(answer["data"]))  # noqa: ASYNC240 - nobody waits

    async def _whole(self) -> dict[str, float]:
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    async def close(self) -> None:
        """Close the tab."""
        await self._browser.forget(self._session)
        await self.call("Page.close")


class Browser:
    """A running Chromium and the one connection to it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}

    async def listen(self) -> None:
        """Hand on what the browser says, until it has gone."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                waiting = self._waiting.pop(said["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)
            elif (page := self._pages.get(said.get("sessionId", ""))) is not None:
                page.hear(said["method"], said["params"])
        for waiting in self._waiting.values():
            waiting.cancel()

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Run a command of the protocol and return its result. Raises BrowserBroke."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(command | ({"sessionId": session} if session else {}))
        answer = await future
        if "error" in answer:
            raise BrowserBroke(f"{method}: {answer['error']}")
        return answer["result"]

    async def open_page(self, *, width: int = 1280, dark: bool = False) -> Page:
        """Return a new tab with cookies of its own."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Audits", "Network"):
            await page.call(f"{domain}.enable")
        await page.look(width=width, dark=dark)
        return page

    async def forget(self, session: str) -> None:
        """Hear no more of a tab."""
        self._pages.pop(session, None)


@asynccontextmanager
async def open_browser(chromium: str) -> AsyncIterator[Browser]:
    """Start Chromium with a profile of its own, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="chromium"))
    # As root, as in a container, it has no sandbox of its own to offer.
    sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(
        chromium, *_FLAGS, *sandbox, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True, preexec_fn=before_exec(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(HANGS_S):
            address = await _address(process)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=64 * 1024 * 1024) as socket,
        ):
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            reading = asyncio.create_task(_drain(process))
            try:
                yield browser
            finally:
                with contextlib.suppress(BrowserBroke, asyncio.CancelledError, ConnectionError):
                    async with asyncio.timeout(5):
                        await browser.call("Browser.close")
                for task in (listening, reading):
                    task.cancel()
                await asyncio.wait((listening, reading), timeout=2)
    finally:
        await _end(process)
        shutil.rmtree(folder, ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let it end by itself for a moment, then kill it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    """Return the address of the browser's socket, which it writes to its standard error."""
    assert process.stderr is not None
    lines = []
    async for raw in process.stderr:
        lines.append(raw.decode(errors="replace"))
        if "DevTools listening on " in lines[-1]:
            return lines[-1].partition("DevTools listening on ")[2].strip()
    raise BrowserBroke(f"Chromium does not start: {''.join(lines[-5:])}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async for _ in process.stderr:
        pass
