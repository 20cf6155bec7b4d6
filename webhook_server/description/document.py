"""The table of operations as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from paystate import __version__
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER
from webhook_server.description.operations import Answer, Example, Operation, Parameter, Stream
from webhook_server.description.problems import PROBLEMS, refusals
from webhook_server.description.schemas import Schema, Schemas
from webhook_server.description.table import OPERATIONS, TAGS
from webhook_server.problems import PROBLEM_TYPE, ProblemJson

__all__ = ["make_document"]

_ABOUT = """\
Payment status that never answers with a *pending* that has been overtaken.

Every status has a `version`, given by the database; versions decide what is newer, never times. \
Errors are problem documents (RFC 9457): `reason` is their stable name, `type` is \
`urn:paystate:problem:` and the reason, and `detail` says what to do."""

_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of API_TOKENS; bound to a merchant and to reading, or an "
        "operator's. Without any token configured the API is open, and on loopback only.",
    },
    "v3": {
        "type": "apiKey", "in": "header", "name": V3_HEADER,
        "description": "The secret hash itself.",
    },
    "v4": {
        "type": "apiKey", "in": "header", "name": V4_HEADER,
        "description": "HMAC-SHA256 of the body under the secret hash, in base64.",
    },
}  # fmt: skip
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "open": [],
    "signature": [{"v3": []}, {"v4": []}],
    "read": [{"token": []}],
    "operate": [{"token": []}],
}
_WITH_RETRY = frozenset({404, 409, 503})


def make_document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """Return the document; it is made of plain JSON values, anew at each call."""
    schemas = Schemas()
    schemas.of(ProblemJson)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "paystate", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for name, meaning in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": _SCHEMES,
        },
        "x-problems": [
            {"type": PROBLEM_TYPE + reason, "reason": reason, "status": one.status,
             "meaning": one.meaning}
            for reason, one in PROBLEMS.items()
        ],
    }  # fmt: skip


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": _SECURITY[operation.access],
        "responses": _responses(operation, schemas),
    }
    if operation.meaning:
        described["description"] = operation.meaning
    if operation.parameters:
        described["parameters"] = [
            _parameter(one, operation.examples, schemas) for one in operation.parameters
        ]
    if operation.body is not None:
        described["requestBody"] = _body(operation, schemas)
    return described


def _parameter(
    parameter: Parameter, examples: Sequence[Example], schemas: Schemas
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.meaning,
        "schema": schemas.of(parameter.type),
    }
    given = {}
    for example in examples:
        values = {"path": example.path, "query": example.query, "header": example.headers}
        if parameter.name in (found := values[parameter.place]) and example.status < 300:
            given[example.summary] = {"value": _typed(found[parameter.name], described["schema"])}
    if given:
        described["examples"] = given
    return described


def _typed(text: str, schema: Schema) -> str | int:
    return int(text) if schema.get("type") == "integer" else text


def _body(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    examples = {
        one.summary: {"value": one.body}
        for one in operation.examples
        if one.body is not None and one.status < 300
    }
    schema = schemas.of(operation.body)
    if operation.body_too:  # beside a reference it could not say that there is nothing else
        schema = {**schemas.components[schema["$ref"].rpartition("/")[2]], **operation.body_too}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if examples:
        content["application/json"]["examples"] = examples
    if operation.form:
        # Nothing at all is an empty body, whatever its type. The values of a form are texts.
        fields = schema if "$ref" in schema or "properties" in schema else {
            "type": "object", "additionalProperties": {"type": "string"}
        }  # fmt: skip
        content["application/x-www-form-urlencoded"] = {"schema": {**fields, "minProperties": 1}}
    return {"required": operation.body_required, "content": content}


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in operation.answers:
        described = responses.setdefault(str(answer.status), {"description": answer.meaning})
        if answer.media:
            described.setdefault("content", {})[answer.media] = _content(
                answer, operation.examples, schemas
            )
        if answer.headers:
            described["headers"] = {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in answer.headers.items()
            }
    for status, reasons in refusals(operation).items():
        described = responses.setdefault(str(status), {"description": HTTPStatus(status).phrase})
        described.setdefault("content", {})["application/problem+json"] = _problem(reasons)
        if status in _WITH_RETRY:
            described["headers"] = {
                "Retry-After": {
                    "description": "Seconds, where waiting helps.",
                    "schema": {"type": "string"},
                }
            }
    return dict(sorted(responses.items()))


def _content(answer: Answer, examples: Sequence[Example], schemas: Schemas) -> dict[str, Any]:
    if isinstance(answer.type, Stream):
        events = {name: schemas.of(kind) for name, kind in answer.type.events.items()}
        return {"schema": {"type": "string"}, "x-events": events}
    content: dict[str, Any] = {"schema": schemas.of(answer.type)}
    shown = {
        one.summary: {"value": one.answer}
        for one in examples
        if one.answer is not None and one.status == answer.status
    }
    return {**content, "examples": shown} if shown else content


def _problem(reasons: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": {
            "$ref": "#/components/schemas/Problem",
            "description": " ".join(f"`{one}`: {PROBLEMS[one].meaning}" for one in reasons),
            "properties": {
                "type": {"enum": [PROBLEM_TYPE + one for one in reasons]},
                "reason": {"enum": list(reasons)},
            },
        }
    }
