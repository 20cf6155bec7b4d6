"""The control API's levers: where webhooks go, how they fare, how the APIs answer, and scripts."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from paystate.flutterwave.sandbox import acts, levers
from paystate.flutterwave.sandbox.acts import Stage
from paystate.flutterwave.sandbox.asking import answering, error, read_object, read_value
from paystate.flutterwave.sandbox.families import Family
from paystate.flutterwave.sandbox.fates import Mishap
from paystate.flutterwave.sandbox.faults import FaultMode
from paystate.flutterwave.sandbox.player import PLAYER
from paystate.flutterwave.sandbox.provider import SANDBOX, Sandbox
from paystate.flutterwave.sandbox.script import parse_script

__all__ = ["ROUTES", "is_loopback"]

DRAIN_S = 60.0


def is_loopback(url: str) -> bool:
    """Say whether `url` names a host of this machine, by an address or as ``localhost``."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _show_state(request: web.Request) -> web.Response:
    """Answer with all that the page shows but payments and deliveries."""
    sandbox = request.app[SANDBOX]
    return web.json_response(
        {
            "seed": sandbox.seed,
            "payments": len(sandbox.truth),
            "rate_per_s": sandbox.config.rate_per_s,
            "receiver": _receiver(sandbox),
            "webhooks": levers.policy_to_json(sandbox),
            "api": levers.api_to_json(sandbox),
            "script": request.app[PLAYER].to_json(),
            "families": [family.value for family in Family],
            "webhook_faults": [mishap.value for mishap in Mishap],
            "api_faults": [mode.value for mode in FaultMode],
        }
    )


async def _set_receiver(request: web.Request) -> web.Response:
    """Send webhooks to ``url`` from now on (null: nowhere), signed with ``secret_hash`` if given.

    The secret before it becomes the old one of a rotation.
    """
    sandbox, body = request.app[SANDBOX], await read_object(request)
    receiver = sandbox.sender.receiver
    url, secret = body.get("url", receiver.url), body.get("secret_hash")
    if url is not None and not _is_http(url):
        raise ValueError("a receiver is an http:// or https:// address")
    if url is not None and not _may_receive(sandbox, url):
        return error(
            "remote",
            "a receiver on another machine is refused: start the sandbox with --allow-remote "
            "(SANDBOX_ALLOW_REMOTE=1) to allow it",
            status=403,
        )
    if secret is not None:
        if not (isinstance(secret, str) and secret.strip() and secret.isprintable()):
            raise ValueError("a secret hash is printable text and not blank")
        if secret != receiver.secret_hash:
            receiver = replace(
                receiver, secret_hash=secret, previous_secret_hash=receiver.secret_hash
            )
    sandbox.sender.receiver = replace(receiver, url=url)
    return web.json_response(_receiver(sandbox))


async def _send(request: web.Request) -> web.Response:
    """Send one webhook of a family: see `acts.send`."""
    sent = acts.send(Stage(request.app[SANDBOX]), await read_object(request))
    return web.json_response(sent, status=202)


async def _show_webhooks(request: web.Request) -> web.Response:
    return web.json_response(levers.policy_to_json(request.app[SANDBOX]))


async def _set_webhooks(request: web.Request) -> web.Response:
    """Change how webhooks fare: see `levers.webhooks`."""
    return web.json_response(levers.webhooks(request.app[SANDBOX], await read_object(request)))


async def _show_api(request: web.Request) -> web.Response:
    return web.json_response(levers.api_to_json(request.app[SANDBOX]))


async def _set_api(request: web.Request) -> web.Response:
    """Change how the APIs answer: see `levers.api`."""
    return web.json_response(levers.api(request.app[SANDBOX], await read_object(request)))


async def _play(request: web.Request) -> web.Response:
    """Play a script: a list of steps (see `script`)."""
    player = request.app[PLAYER]
    player.start(parse_script(await read_value(request)))
    return web.json_response(player.to_json(), status=202)


async def _show_script(request: web.Request) -> web.Response:
    return web.json_response(request.app[PLAYER].to_json())


async def _stop_script(request: web.Request) -> web.Response:
    player = request.app[PLAYER]
    await player.stop()
    return web.json_response(player.to_json())


async def _drain(request: web.Request) -> web.Response:
    """Answer once the script is over and no webhook is under way, or with 409 after `DRAIN_S`.

    ``timeout_s`` is another time to wait at most. A sandbox that makes payments is never done.
    """
    body = await read_object(request)
    sandbox, player = request.app[SANDBOX], request.app[PLAYER]
    try:
        async with asyncio.timeout(float(body.get("timeout_s", DRAIN_S))):
            await player.over()
            await sandbox.sender.idle()
    except TimeoutError:
        return error("busy", "webhooks are still under way", status=409)
    return web.json_response(player.to_json())


async def _reset(request: web.Request) -> web.Response:
    """Begin anew, with ``seed`` or the same one: see `Sandbox.reset`. Ends a script."""
    sandbox, body = request.app[SANDBOX], await read_object(request)
    seed = int(body.get("seed", sandbox.seed))
    await request.app[PLAYER].stop()
    await sandbox.reset(seed)
    return web.json_response({"seed": seed})


ROUTES = [
    web.get("/sandbox/state", answering(_show_state)),
    web.post("/sandbox/receiver", answering(_set_receiver)),
    web.post("/sandbox/send", answering(_send)),
    web.get("/sandbox/webhooks", answering(_show_webhooks)),
    web.post("/sandbox/webhooks", answering(_set_webhooks)),
    web.get("/sandbox/api", answering(_show_api)),
    web.post("/sandbox/api", answering(_set_api)),
    web.get("/sandbox/script", answering(_show_script)),
    web.post("/sandbox/script", answering(_play)),
    web.delete("/sandbox/script", answering(_stop_script)),
    web.post("/sandbox/drain", answering(_drain)),
    web.post("/sandbox/reset", answering(_reset)),
]


def _receiver(sandbox: Sandbox) -> dict[str, Any]:
    return {"url": sandbox.sender.receiver.url, "allow_remote": sandbox.config.allow_remote}


def _is_http(url: object) -> bool:
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _may_receive(sandbox: Sandbox, url: str) -> bool:
    # Whoever started it has chosen the first receiver; to go back to that one is no news.
    return sandbox.config.allow_remote or url == sandbox.config.receiver_url or is_loopback(url)
