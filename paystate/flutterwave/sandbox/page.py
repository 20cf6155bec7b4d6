"""The sandbox's page: three files of our own, and nothing else may run or load on it."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

__all__ = ["CONTENT_SECURITY_POLICY", "ROUTES"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",  # the empty icon, which spares a request for one
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PAGES = Path(__file__).with_name("pages")


def _serving(name: str, content_type: str) -> web.RouteDef:
    text = (_PAGES / name).read_text("utf-8")
    path = "/sandbox" if name == "index.html" else f"/sandbox/{name}"

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=content_type, headers=_HEADERS)

    return web.get(path, serve)


ROUTES = [
    _serving("index.html", "text/html"),
    _serving("page.css", "text/css"),
    _serving("page.js", "text/javascript"),
]
