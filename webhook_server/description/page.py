"""The description as a page: HTML and its style, with no script and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from webhook_server.description.operations import Example, Operation
from webhook_server.description.schemas import Schema
from webhook_server.description.table import OPERATIONS, TAGS

__all__ = ["POLICY", "render"]

_STYLE = (Path(__file__).parent / "page.css").read_text()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# Nothing may be loaded but this one style, which is in the page itself.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_WHO = {
    "open": "open to all",
    "signature": "signed by Flutterwave",
    "read": "any token",
    "operate": "an operator's token",
}


def render(document: dict[str, Any], operations: Sequence[Operation] = OPERATIONS) -> str:
    """Return the page of an OpenAPI `document` that was made of `operations`."""
    body = "\n".join(_body(document, operations))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>paystate: HTTP API</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(document: dict[str, Any], operations: Sequence[Operation]) -> Iterator[str]:
    yield "<nav><h2>paystate</h2>"
    for tag in TAGS:
        yield f"<h3>{tag}</h3><ul>"
        for one in operations:
            if one.tag == tag:
                yield f'<li><a href="#{one.name}">{escape(one.summary)}</a></li>'
        yield "</ul>"
    yield '<ul><li><a href="#forms">Forms</a></li><li><a href="#problems">Problems</a></li></ul>'
    yield "</nav><main>"
    info = document["info"]
    yield f"<h1>HTTP API <small>{escape(info['version'])}</small></h1>"
    for paragraph in info["description"].split("\n\n"):
        yield f"<p>{_marked(paragraph)}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
    for tag, meaning in TAGS.items():
        yield f"<h2>{tag}</h2><p>{_marked(meaning)}</p>"
        for one in operations:
            if one.tag == tag:
                yield from _operation(one, document["paths"][one.path][one.method.lower()])
    yield from _forms(document["components"]["schemas"])
    yield from _problems(document["x-problems"])
    yield "</main>"


def _operation(operation: Operation, described: dict[str, Any]) -> Iterator[str]:
    yield f'<section id="{operation.name}"><h3>{escape(operation.summary)}</h3>'
    yield f"<p><code><b>{operation.method}</b> {escape(operation.path)}</code> "
    yield f"<i>{_WHO[operation.access]}</i></p>"
    if operation.meaning:
        yield f"<p>{_marked(operation.meaning)}</p>"
    if parameters := described.get("parameters"):
        yield from _table(
            ("parameter", "in", "type", "meaning"),
            (
                (f"<code>{one['name']}</code>", one["in"], _type(one["schema"]),
                 _marked(one["description"]))
                for one in parameters
            ),
        )  # fmt: skip
    if body := described.get("requestBody"):
        kinds = " or ".join(f"<code>{media}</code>" for media in body["content"])
        first = next(iter(body["content"].values()))
        yield f"<p>Body: {_type(first['schema'])}, as {kinds}</p>"
    answers = (_answer(status, one) for status, one in described["responses"].items())
    yield from _table(("status", "answer", "meaning"), answers)
    for example in operation.examples:
        yield from _example(operation, example)
    yield "</section>"


def _answer(status: str, response: dict[str, Any]) -> tuple[str, str, str]:
    forms = []
    for media, content in response.get("content", {}).items():
        events = content.get("x-events", {})
        told = ", ".join(f"<code>{name}</code>: {_type(one)}" for name, one in events.items())
        forms.append(f"{told or _type(content['schema'])} <small>{media}</small>")
    problem = response.get("content", {}).get("application/problem+json", {}).get("schema", {})
    reasons = problem.get("properties", {}).get("reason", {}).get("enum", ())
    named = ", ".join(f'<a href="#{one}"><code>{one}</code></a>' for one in reasons)
    said = "" if named and len(response["content"]) == 1 else _marked(response["description"])
    return status, "<br>".join(forms), f"{said} {named}".strip()


def _example(operation: Operation, example: Example) -> Iterator[str]:
    yield f"<p>{escape(example.summary)}: <code>{example.status}</code></p>"
    yield f'<pre tabindex="0">{escape(_curl(operation, example))}</pre>'
    if example.answer is not None:
        yield f'<pre tabindex="0">{escape(json.dumps(example.answer, indent=2))}</pre>'


def _curl(operation: Operation, example: Example) -> str:
    path = operation.path
    for name, value in example.path.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    query = f"?{urlencode(example.query)}" if example.query else ""
    lines = [f'curl "$PAYSTATE{path}{query}"']
    if operation.access in ("read", "operate"):
        lines.append('-H "Authorization: Bearer $TOKEN"')
    lines += [f'-H "{name}: {value}"' for name, value in example.headers.items()]
    if example.body is not None:
        lines += ['-H "Content-Type: application/json"', f"-d '{json.dumps(example.body)}'"]
    return " \\\n  ".join(lines)


def _forms(schemas: dict[str, Schema]) -> Iterator[str]:
    yield '<h2 id="forms">Forms</h2>'
    for name, schema in schemas.items():
        yield f'<section id="form-{name}"><h3>{name}</h3>'
        yield f"<p>{_marked(schema.get('description', ''))}</p>"
        if "enum" in schema:
            yield f"<p>{', '.join(f'<code>{escape(word)}</code>' for word in schema['enum'])}</p>"
            yield "</section>"
            continue
        required = schema.get("required", ())
        rows = []
        for field, one in schema["properties"].items():
            optional = "" if field in required else " <small>may be missing</small>"
            rows.append((f"<code>{field}</code>{optional}", _type(one),
                         _marked(one.get("description", ""))))  # fmt: skip
        yield from _table(("field", "type", "meaning"), rows)
        yield "</section>"


def _problems(problems: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield '<h2 id="problems">Problems</h2>'
    yield from _table(
        ("type", "status", "meaning"),
        (
            (f'<code id="{one["reason"]}">{one["type"]}</code>', str(one["status"]),
             _marked(one["meaning"]))
            for one in problems
        ),
    )  # fmt: skip


def _type(schema: Schema) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#form-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(word))}</code>" for word in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    words = kind if isinstance(kind, list) else [kind]
    return " or ".join(words) + (f" ({schema['format']})" if "format" in schema else "")


def _table(heads: Sequence[str], rows: Any) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{one}</th>" for one in heads) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table>"


def _marked(text: str) -> str:
    """Return `text` as HTML, what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
