"""The web application, composed from what is open."""

from __future__ import annotations

from aiohttp import web

from paystate.health import health_routes
from paystate.resources import Resources
from webhook_server.access import Access
from webhook_server.front import FRONT
from webhook_server.middleware import surround
from webhook_server.operations import OperationEndpoints
from webhook_server.payments import PaymentEndpoints
from webhook_server.streams import StreamEndpoints
from webhook_server.webhooks import WebhookEndpoint

__all__ = ["make_app"]


def make_app(resources: Resources) -> web.Application:
    """Return the application over `resources`, which outlive it."""
    settings = resources.settings
    app = web.Application(
        middlewares=[surround(resources.metrics, verbose=settings.log_level == "DEBUG")],
        client_max_size=settings.max_body_bytes,
    )
    webhooks = WebhookEndpoint(
        {name: merchant.secret_hashes for name, merchant in settings.merchants.items()},
        resources.recorder,
        resources.metrics,
        max_body_bytes=settings.max_body_bytes,
    )
    access, merchants = Access(settings.api_tokens), tuple(settings.merchants)
    payments = PaymentEndpoints(
        resources.lookups,
        resources.store,
        resources.feed,
        access,
        merchants,
        resources.metrics,
    )
    if settings.log_level != "DEBUG":  # which wants a line of every lookup
        app[FRONT] = payments.held
    streams = StreamEndpoints(resources.feed, resources.lookups, resources.store, access, merchants)
    app.add_routes(health_routes(resources))
    app.add_routes(
        [
            web.post("/webhooks/flutterwave", webhooks.receive),
            web.post("/webhooks/flutterwave/{merchant}", webhooks.receive),
        ]
    )
    app.add_routes(payments.routes())  # first: they are asked for most
    app.add_routes(streams.routes())
    app.add_routes(OperationEndpoints(resources, access).routes())

    async def end_streams(_app: web.Application) -> None:
        resources.feed.close()

    app.on_shutdown.append(end_streams)
    return app
