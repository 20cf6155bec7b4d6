"""What browsers are given: the files of ``pages/``, read once, and the headers that bind them.

A page runs the scripts and styles of its own server and nothing else, talks to it alone, and stands
in no other page's frame. Files are checked each time they are used (a 304 without a body), so that
no browser puts the script of one release into the page of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from html import escape
from pathlib import Path

from aiohttp import web

__all__ = ["SECURITY", "Files", "wants_page"]

FOLDER = Path(__file__).with_name("pages")

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    # An address may hold a link's token, which is nobody else's.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _File:
    """A file as it is sent."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.type = _TYPES[path.suffix]
        self.tag = hashlib.sha256(self.body).hexdigest()[:16]


class Files:
    """The files of `folder`; read at the start, for they change with the code only."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(folder.iterdir())
        self._files = {p.name: _File(p) for p in paths if p.suffix in _TYPES}
        self._pages = {p.stem: p.read_text("utf-8") for p in paths if p.suffix == ".html"}

    def routes(self) -> list[web.RouteDef]:
        """Return the route of everything that is no page."""
        return [web.get("/pages/{name}", self.file)]

    async def file(self, request: web.Request) -> web.Response:
        """``GET /pages/{name}``: a style, a script or a picture."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "no-cache", "ETag": f'"{file.tag}"', **SECURITY}
        if any(tag.value in (file.tag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=file.body, content_type=file.type, charset="utf-8", headers=headers
        )

    def page(
        self,
        name: str,
        values: Mapping[str, str] | None = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        """Return the page `name` with `values` in place of its ``{{names}}``, kept by nobody."""
        text = self._pages[name]
        for key, value in (values or {}).items():
            text = text.replace("{{" + key + "}}", escape(value))
        return web.Response(
            text=text,
            status=status,
            content_type="text/html",
            headers={"Cache-Control": "no-store", **SECURITY, **(headers or {})},
        )


def wants_page(request: web.Request) -> bool:
    """Say whether a person's browser asks, rather than a program."""
    return "text/html" in request.headers.get("Accept", "")
