"""The web application, composed from what is open."""

from __future__ import annotations

from aiohttp import web

from paystate.health import health_routes
from paystate.links import Links
from paystate.payments.desk import open_desk
from paystate.resources import Resources
from webhook_server.access import Access
from webhook_server.board import BoardEndpoints
from webhook_server.customers import CustomerEndpoints
from webhook_server.description.routes import description_routes
from webhook_server.expected import ExpectedEndpoint
from webhook_server.files import Files
from webhook_server.front import FRONT, INTAKE
from webhook_server.intake import Intake
from webhook_server.limits import Limits
from webhook_server.links import LinkEndpoints
from webhook_server.middleware import surround
from webhook_server.operations import OperationEndpoints
from webhook_server.pay import PayEndpoints
from webhook_server.payments import PaymentEndpoints
from webhook_server.streams import StreamEndpoints
from webhook_server.unsettled import UnsettledEndpoint
from webhook_server.webhooks import WebhookEndpoint, WebhookReader

__all__ = ["make_app"]


def make_app(resources: Resources) -> web.Application:
    """Return the application over `resources`, which outlive it."""
    settings, roster = resources.settings, resources.roster
    access = Access(
        settings.api_tokens,
        roster.merchants,
        Limits(resources.redis, resources.keys),
        per_minute=settings.api_calls_per_minute,
    )
    roster.follow(lambda _: access.merchants_changed())
    verbose = settings.log_level == "DEBUG"
    app = web.Application(
        middlewares=[surround(resources.metrics, admit=access.admit, verbose=verbose)],
        client_max_size=settings.max_body_bytes,
    )
    reader = WebhookReader(roster.merchants, max_body_bytes=settings.max_body_bytes)
    webhooks = WebhookEndpoint(reader, resources.recorder, resources.metrics)
    merchants = roster.names
    desk = open_desk(resources)
    payments = PaymentEndpoints(
        resources.lookups,
        desk.informant,
        resources.feed,
        access,
        merchants,
        resources.metrics,
    )
    if not verbose:  # which wants a line of every lookup
        app[FRONT] = payments
        app[INTAKE] = Intake(reader, resources.recorder, resources.metrics)
    streams = StreamEndpoints(resources.feed, resources.lookups, resources.store, access, merchants)
    app.add_routes(health_routes(resources))
    app.add_routes(description_routes())
    app.add_routes(
        [
            web.post("/webhooks/flutterwave", webhooks.receive),
            web.post("/webhooks/flutterwave/{merchant}", webhooks.receive),
        ]
    )
    app.add_routes(payments.routes())  # first: they are asked for most
    app.add_routes(streams.routes())
    app.add_routes(ExpectedEndpoint(resources, access).routes())
    app.add_routes(UnsettledEndpoint(resources, access).routes())
    app.add_routes(OperationEndpoints(resources, access).routes())
    _add_pages(app, resources, access)
    app.add_routes(CustomerEndpoints(desk, access, merchants).routes())

    async def end_streams(_app: web.Application) -> None:
        resources.feed.close()

    app.on_shutdown.append(end_streams)
    return app


def _add_pages(app: web.Application, resources: Resources, access: Access) -> None:
    """Add what browsers are given, and what makes the links to it."""
    settings = resources.settings
    links, files = Links(settings.link_keys), Files()
    app.add_routes(
        LinkEndpoints(
            links, resources.lookups, access, resources.roster.names,
            ttl_s=settings.link_ttl_s, public_url=settings.public_url,
        ).routes()
    )  # fmt: skip
    app.add_routes(PayEndpoints(links, resources.lookups, resources.feed, files).routes())
    app.add_routes(BoardEndpoints(resources, access, files).routes())
    app.add_routes(files.routes())
