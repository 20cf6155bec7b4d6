"""The sandbox's application: the APIs that paystate asks, and the means to direct them.

``/v3`` and ``/v4`` stand for the two base addresses and ``/token`` for the identity provider. The
open control API under ``/sandbox`` is in `control`, and its page in `page`.
"""

from __future__ import annotations

from aiohttp import web

from paystate.flutterwave.sandbox import api_v3, api_v4, control, gateway, page, steering
from paystate.flutterwave.sandbox.faults import Fault
from paystate.flutterwave.sandbox.player import PLAYER, Player
from paystate.flutterwave.sandbox.provider import SANDBOX, Sandbox

__all__ = ["make_app"]

MAX_BODY_BYTES = 1024 * 1024  # a script of some thousand steps


def make_app(sandbox: Sandbox) -> web.Application:
    """Return an application that answers as Flutterwave would, out of the truth of `sandbox`."""
    app = web.Application(middlewares=gateway.MIDDLEWARES, client_max_size=MAX_BODY_BYTES)
    app[SANDBOX] = sandbox
    app[PLAYER] = Player(sandbox)
    for part in (api_v3, api_v4, control, steering, page):
        app.add_routes(part.ROUTES)
    app.on_shutdown.append(_end_faults)
    return app


async def _end_faults(app: web.Application) -> None:
    app[SANDBOX].faults.set(Fault())
    await app[PLAYER].stop()
