"""``paystate watch``: changes as they happen, and how long they took to get here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import datetime
from typing import Any

import click

from paystate.cli.client import Answer
from paystate.cli.exits import Exit, Failure
from paystate.cli.targets import Target, data_dir_option, find_target

__all__ = ["Latencies", "command"]

_COLOURS = {"successful": "green", "failed": "red", "voided": "red"}


class Latencies:
    """Times from a webhook's record to the news of what came of it, in milliseconds.

    A payment shows `processing` from the moment its webhook was committed, just before the 200; the
    clock runs from there to the arrival of the change that settles it. Both clocks are wall clocks:
    on two machines the result is as good as their agreement.
    """

    def __init__(self) -> None:
        self._recorded: dict[tuple[str, str], float] = {}
        self.seen_ms: list[float] = []

    def hear(self, change: dict[str, Any], now: float) -> float | None:
        """Take in a change that came at `now` (epoch seconds); return its latency if it has one.

        References are left out: they change together with their payments.
        """
        if change["kind"] == "reference":
            return None
        key = (change["kind"], change["payment_id"])
        changed = datetime.fromisoformat(change["changed_at"]).timestamp()
        if change["status"] == "processing":
            self._recorded[key] = changed
            return None
        recorded = self._recorded.pop(key, None)
        if recorded is None:
            return None
        took_ms = max(0.0, (now - recorded) * 1000)
        self.seen_ms.append(took_ms)
        return took_ms

    def percentile(self, share: float) -> float:
        """Return the latency that `share` of them do not exceed, in milliseconds."""
        ordered = sorted(self.seen_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@click.command("watch")
@click.option("--url", help="Server. Default: 127.0.0.1:$PORT, else a running `paystate dev`.")
@click.option("--token", help="Bearer token. Default: the first of API_TOKENS that has no name.")
@click.option("--merchant", help="Only this merchant's changes.")
@click.option("--after", metavar="CURSOR", help="Begin with what came after this cursor.")
@click.option("--latency", is_flag=True, help="Show how long each change took, and p50 and p99.")
@click.option("--count", type=click.IntRange(1), help="End after this many changes.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    url: str | None,
    token: str | None,
    merchant: str | None,
    after: str | None,
    latency: bool,
    count: int | None,
    data_dir: str,
    as_json: bool,
) -> None:
    """Watch changes of status as they happen; Ctrl-C ends it.

    With --latency each settled payment shows the milliseconds from its webhook's record to here.

    \b
    Examples:
      paystate watch
      paystate watch --latency
      paystate watch --after 0.0 --count 10 --json | jq -r .status

    \b
    Exit codes:
      0  ended as asked
      1  the changes after that cursor have been removed
      2  wrong arguments
      3  server unreachable
      4  token refused, or not enough
      5  server error
    """
    target = find_target(url, data_dir)
    times = Latencies()
    query = {k: v for k, v in (("merchant", merchant), ("after", after)) if v is not None}
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(target, target.token(token), query, times, latency, count, as_json))
    if latency:
        _summarise(times, as_json)


async def _watch(
    target: Target,
    token: str,
    query: dict[str, str],
    times: Latencies,
    latency: bool,
    count: int | None,
    as_json: bool,
) -> None:
    import aiohttp  # noqa: PLC0415

    last_id: str | None = None
    left = count
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        while left is None or left > 0:
            headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
            if last_id is not None:
                headers["Last-Event-ID"] = last_id
            try:
                async with session.get(
                    f"{target.url}/api/changes", params=query, headers=headers
                ) as response:
                    if response.status != 200:
                        raise _refused(Answer(response.status, await response.read()))
                    async for change, event_id in _events(response):
                        last_id = event_id or last_id
                        took_ms = times.hear(change, time.time())
                        _show(change, took_ms if latency else None, as_json)
                        if left is not None:
                            left -= 1
                            if left == 0:
                                return
            except aiohttp.ClientConnectionError:
                if last_id is None:
                    raise Failure(
                        f"No server at {target.url}. Is it running? Start one with `paystate dev`.",
                        Exit.UNREACHABLE,
                    ) from None
            await asyncio.sleep(1)


async def _events(response: Any) -> Any:
    """Yield (change, id) for each change of a stream, until it ends."""
    event, data, event_id = "", "", None
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data = value
        elif name == "id":
            event_id = value
        elif not name and event:
            if event == "change":
                yield json.loads(data), event_id
            event = ""


def _refused(answer: Answer) -> Failure:
    status = answer.status
    if status in (401, 403):
        return Failure("The server refused the token: give --token.", Exit.UNAUTHORISED)
    if status == 410:
        return Failure(
            "That cursor is older than the oldest change still kept: begin without --after.",
            Exit.REFUSED,
        )
    if status == 400:
        return Failure(f"The server refused the question: {answer.detail}", Exit.USAGE)
    return Failure(f"The server refused: HTTP {status}. {answer.detail}", Exit.SERVER_ERROR)


def _show(change: dict[str, Any], took_ms: float | None, as_json: bool) -> None:
    if as_json:
        extra = {} if took_ms is None else {"latency_ms": round(took_ms, 2)}
        click.echo(json.dumps({**change, **extra}))
        return
    name = change["tx_ref"] if change["kind"] == "reference" else change["payment_id"]
    status = click.style(f"{change['status']:<11}", fg=_COLOURS.get(change["status"], "yellow"))
    took = "" if took_ms is None else f"  {took_ms:8.1f} ms"
    click.echo(
        f"{change['changed_at'][11:23]}  {change['kind']:<9}  {status} v{change['version']:<3}"
        f" {name}{took}"
    )


def _summarise(times: Latencies, as_json: bool) -> None:
    summary = {
        "settled": len(times.seen_ms),
        "p50_ms": round(times.percentile(0.5), 2),
        "p99_ms": round(times.percentile(0.99), 2),
    }
    if as_json:
        click.echo(json.dumps(summary))
    elif times.seen_ms:
        click.echo(
            f"{summary['settled']} settled; from the webhook's record to here: "
            f"p50 {summary['p50_ms']} ms, p99 {summary['p99_ms']} ms"
        )
