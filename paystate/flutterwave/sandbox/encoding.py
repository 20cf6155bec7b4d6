"""A body as bytes: JSON, or the form that some accounts are sent."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

__all__ = ["FORM_TYPE", "JSON_TYPE", "encode_form", "encode_json"]

JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"


def encode_json(body: dict[str, Any]) -> bytes:
    """Return `body` as compact JSON."""
    return json.dumps(body, separators=(",", ":")).encode()


def encode_form(body: dict[str, Any]) -> bytes:
    """Return `body` as a form: ``data[customer][id]=2``, nothing for null, ``[0]`` for items."""
    return urlencode(_flat("", body)).encode()


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        value = {str(n): item for n, item in enumerate(value)}
    if isinstance(value, dict):
        return [
            pair
            for key, item in value.items()
            for pair in _flat(f"{name}[{key}]" if name else key, item)
        ]
    if isinstance(value, bool):
        return [(name, "true" if value else "false")]
    return [(name, "" if value is None else str(value))]
