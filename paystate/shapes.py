"""Words for the types of what is sent as JSON: bounds that a Python type alone does not say.

They stand in ``Annotated[...]`` beside a sentence on what a field means. mypy holds the code that
builds an answer to its type, and the API's description is made from the same types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

__all__ = ["Bounded", "CursorText", "Moment", "Money", "Version"]


@dataclass(frozen=True, slots=True)
class Bounded:
    """Limits of a value, as JSON Schema names them; `words` are all that a text can be."""

    format: str | None = None
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    max_items: int | None = None
    words: type[StrEnum] | None = None


Moment = Annotated[str, Bounded(format="date-time")]
Money = Annotated[str, Bounded(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
Version = Annotated[int, Bounded(minimum=0)]
CursorText = Annotated[
    str, Bounded(pattern=r"^[0-9]{1,18}\.[0-9]{1,18}$", min_length=3, max_length=37)
]
