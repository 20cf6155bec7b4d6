"""What one operation of the API is described by; the modules beside this one list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Access", "Answer", "Example", "Operation", "Parameter", "Stream"]

# Who may ask: anybody, whoever can sign, whoever has a token, whoever has an operator's token.
Access = Literal["open", "signature", "read", "operate"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something that a caller puts into the path, the query string or a header."""

    name: str
    place: Literal["path", "query", "header"]
    type: Any
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events by their names, and the type of each one's data."""

    events: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its status code: JSON of `type`, a `Stream`, or a text of `media`."""

    status: int
    meaning: str
    type: Any = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A request that works, and the status and the body of its answer.

    A test sends each one to a running server. Times, versions, cursors and ages in `answer` are
    those of the day on which it was written.
    """

    summary: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    status: int = 200
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    `refuses` names the reasons of the problem documents that are its own; those that every
    operation of its `access` has, and those of a body, are added. `body` is the type of a JSON
    body, whose size is bounded; `body_too` is a schema that it must fulfil as well, and `form` says
    that a form is taken too.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    summary: str
    tag: str
    access: Access
    answers: tuple[Answer, ...]
    meaning: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_too: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    form: bool = False
    refuses: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def name(self) -> str:
        """Return what the operation is called in links: its method and path as one word."""
        words = [w.strip("{}") for w in self.path.replace("-", "/").replace(".", "/").split("/")]
        return "_".join([self.method.lower(), *filter(None, words)])
