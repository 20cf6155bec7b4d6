"""``http.md``: the API, from its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docs.generate.tables import code, table
from webhook_server.description.document import make_document
from webhook_server.description.operations import Operation
from webhook_server.description.table import OPERATIONS, TAGS

__all__ = ["page"]

_WHO = {
    "open": "open to all", "signature": "signed by Flutterwave", "read": "any token",
    "operate": "an operator's token",
}  # fmt: skip

_ABOUT = """\
A running web process has the same at `/docs`, and as OpenAPI 3.1 at `/openapi.json`. What a \
`reason` means is in [errors.md](errors.md).
"""


def page() -> str:
    """Return the page."""
    document = make_document()
    lines = [
        "# HTTP API\n",
        document["info"]["description"] + "\n",
        _ABOUT,
    ]
    for tag, meaning in TAGS.items():
        lines.append(f"## {tag.capitalize()}\n\n{meaning}\n")
        for operation in OPERATIONS:
            if operation.tag == tag:
                described = document["paths"][operation.path][operation.method.lower()]
                lines += _operation(operation, described)
    lines.append("## Forms\n")
    for name, schema in document["components"]["schemas"].items():
        lines += _form(name, schema)
    return "\n".join(lines)


def _operation(operation: Operation, described: dict[str, Any]) -> Iterator[str]:
    yield f"### `{operation.method} {operation.path}`\n"
    yield f"{operation.summary} ({_WHO[operation.access]}). {operation.meaning}".rstrip() + "\n"
    if parameters := described.get("parameters"):
        rows = [
            (code(p["name"]), p["in"], _type(p["schema"]), p["description"]) for p in parameters
        ]
        yield table(("parameter", "in", "type", "meaning"), rows)
    if body := described.get("requestBody"):
        first = next(iter(body["content"].values()))
        yield f"Body: {_type(first['schema'])}, as {' or '.join(map(code, body['content']))}\n"
    yield table(("status", "answer", "meaning"), _answers(described["responses"]))
    for example in operation.examples:
        if example.answer is not None:
            yield f"{example.summary}:\n\n```json\n{json.dumps(example.answer, indent=2)}\n```\n"


def _answers(responses: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, response in responses.items():
        content = response.get("content", {})
        forms = []
        for media, one in content.items():
            events = ", ".join(f"`{n}`: {_type(s)}" for n, s in one.get("x-events", {}).items())
            forms.append(f"{events or _type(one['schema'])} ({code(media)})")
        problem = content.get("application/problem+json", {}).get("schema", {})
        reasons = problem.get("properties", {}).get("reason", {}).get("enum", ())
        plain = not reasons or len(content) > 1
        said = response["description"] + " " if plain else ""
        yield status, "; ".join(forms), said + ", ".join(map(code, reasons))


def _form(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    yield schema.get("description", "") + "\n"
    if "enum" in schema:
        yield ", ".join(map(code, schema["enum"])) + "\n"
        return
    required = schema.get("required", ())
    rows = [
        (code(field), _type(one), one.get("description", "")
         + ("" if field in required else " (may be missing)"))
        for field, one in schema["properties"].items()
    ]  # fmt: skip
    yield table(("field", "type", "meaning"), rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(code(word) for word in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    words = " or ".join(kind if isinstance(kind, list) else [kind])
    return words + (f" ({schema['format']})" if "format" in schema else "")
