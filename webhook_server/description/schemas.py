"""Types of answers and bodies as JSON Schema (2020-12, the dialect of OpenAPI 3.1).

The types are those that the handlers' code is held to by mypy: TypedDicts of plain values. What
stands beside a type in ``Annotated`` says more: a sentence is its description, a `Bounded` its
limits.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from enum import StrEnum
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from paystate.shapes import Bounded

__all__ = ["Schema", "Schemas"]

Schema = dict[str, Any]

_PLAIN = {
    str: "string", int: "integer", bool: "boolean", float: "number", types.NoneType: "null",
}  # fmt: skip
_LIMITS = {
    "format": "format", "pattern": "pattern", "minimum": "minimum", "maximum": "maximum",
    "min_length": "minLength", "max_length": "maxLength", "max_items": "maxItems",
}  # fmt: skip


class Schemas:
    """Makes schemas; those of named types are collected in `components` and referred to."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._kinds: dict[str, type] = {}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type.

        Raises TypeError for one that JSON has no word for, and for two types of one name.
        """
        if kind is Any:
            return {}
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if is_typeddict(kind):
            return self._named(kind, self._record)
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return self._named(kind, _words)
        return self._composed(kind, get_origin(kind), get_args(kind))

    def _composed(self, kind: Any, origin: Any, parts: Sequence[Any]) -> Schema:
        if origin is Annotated:
            return self._annotated(parts[0], parts[1:])
        if origin in (Union, types.UnionType):
            return self._union([self.of(part) for part in parts])
        if origin is Literal:
            return {"type": _PLAIN[type(parts[0])], "enum": list(parts)}
        if origin is list:
            return {"type": "array", "items": self.of(parts[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(parts[1])}
        raise TypeError(f"there is no JSON Schema for {kind!r}")

    def _annotated(self, base: Any, notes: Sequence[Any]) -> Schema:
        schema = dict(self.of(base))
        for note in notes:
            if isinstance(note, str):
                schema["description"] = note
            elif isinstance(note, Bounded):
                schema = self._bounded(schema, note)
        return schema

    def _bounded(self, schema: Schema, limits: Bounded) -> Schema:
        for name, keyword in _LIMITS.items():
            value = getattr(limits, name)
            if value is not None:
                schema[keyword] = value
        if limits.words is None:
            return schema
        words = self.of(limits.words)
        nullable = isinstance(schema["type"], list)
        schema.pop("type")
        return {"anyOf": [words, {"type": "null"}], **schema} if nullable else {**words, **schema}

    def _union(self, options: list[Schema]) -> Schema:
        """Return one schema for several; a plain one that may be null stays plain."""
        some = [option for option in options if option != {"type": "null"}]
        if len(some) == 1 and len(options) == 2 and isinstance(some[0].get("type"), str):
            return {**some[0], "type": [some[0]["type"], "null"]}
        return {"anyOf": options}

    def _named(self, kind: type, make: Any) -> Schema:
        name = kind.__name__.removesuffix("Json")
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"{kind!r} and {self._kinds[name]!r} have one name")
        if name not in self.components:
            self.components[name] = {}  # a type that holds itself finds this
            self.components[name] = {"description": _sentence(kind), **make(kind)}
        return {"$ref": f"#/components/schemas/{name}"}

    def _record(self, kind: Any) -> Schema:
        properties, required = {}, []
        for name, hint in get_type_hints(kind, include_extras=True).items():
            optional = get_origin(hint) is NotRequired
            properties[name] = self.of(get_args(hint)[0] if optional else hint)
            if not optional:
                required.append(name)
        schema: Schema = {"type": "object", "properties": properties}
        return {**schema, "required": required} if required else schema


def _words(kind: type[StrEnum]) -> Schema:
    return {"type": "string", "enum": [word.value for word in kind]}


def _sentence(kind: type) -> str:
    """Return the docstring of a type up to its first empty line, on one line."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split())
