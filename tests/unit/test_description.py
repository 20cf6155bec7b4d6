"""How the API is described: schemas of types, and a line for every reason of a refusal."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import orjson
import pytest

from paystate.errors import SignatureRejected
from paystate.resources import open_resources
from paystate.shapes import Bounded, Money
from tests.conftest import settings_for
from webhook_server.app import make_app
from webhook_server.description.problems import PROBLEMS, refusals
from webhook_server.description.schemas import Schemas
from webhook_server.description.table import OPERATIONS, TAGS
from webhook_server.problems import from_error

ROOT = Path(__file__).parent.parent.parent


class Colour(StrEnum):
    """What it looks like."""

    RED = "red"


class ThingJson(TypedDict):
    """One thing,
    in two lines.

    And more.
    """

    name: str
    weight: Annotated[Money | None, "In kilograms."]
    colour: Annotated[str | None, Bounded(words=Colour)]
    parts: NotRequired[list[ThingJson]]
    shape: Literal["round", "flat"]
    notes: dict[str, Any]


def test_a_type_becomes_a_schema() -> None:
    schemas = Schemas()
    assert schemas.of(ThingJson) == {"$ref": "#/components/schemas/Thing"}
    assert schemas.components["Colour"]["enum"] == ["red"]
    assert schemas.components["Thing"] == {
        "description": "One thing, in two lines.",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "weight": {
                "type": ["string", "null"],
                "pattern": r"^-?[0-9]+(\.[0-9]+)?$",
                "description": "In kilograms.",
            },
            "colour": {"anyOf": [{"$ref": "#/components/schemas/Colour"}, {"type": "null"}]},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
            "shape": {"type": "string", "enum": ["round", "flat"]},
            "notes": {"type": "object", "additionalProperties": {}},
        },
        "required": ["name", "weight", "colour", "shape", "notes"],
    }


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="no JSON Schema"):
        Schemas().of(set[str])


def test_two_types_of_one_name_are_refused() -> None:
    """Else one would be described as the other."""
    schemas = Schemas()
    schemas.of(ThingJson)
    with pytest.raises(TypeError, match="one name"):
        schemas.of(TypedDict("ThingJson", {"other": str}))  # type: ignore[operator]


def _refusals_in(path: Path) -> Iterator[str]:
    """Yield the literal reasons of what a module raises that becomes a problem document."""
    refused = ("SignatureRejected", "BodyRejected", "PaymentNotFound", "CursorPruned",
               "StoreUnavailable", "RulingRefused", "LinkRefused",
               "ExpectationRefused")  # fmt: skip
    reasoned = {"Refused": 1, "problem": 1, **dict.fromkeys(refused, 0)}
    text = path.read_text()
    if not any(f"{name}(" in text for name in reasoned):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            place = reasoned.get(node.func.id)
            if place is not None and len(node.args) > place:
                for part in ast.walk(node.args[place]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value


def test_every_reason_that_the_code_names_is_described() -> None:
    """Of the processes' own code; what is made of a parameter's name is seen by its tests."""
    folders = ("webhook_server", "paystate/flutterwave", "paystate/payments", "paystate/store")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {
        reason
        for path in (*files, ROOT / "paystate/links.py")
        if "sandbox" not in path.parts
        for reason in _refusals_in(path)
    }
    assert found - {"invalid_"} <= set(PROBLEMS)
    assert {"mismatch", "cursor_pruned", "unknown_payment", "database_unreachable"} <= found


def test_every_problem_is_of_some_operation() -> None:
    """But for those of no operation at all."""
    told = {r for one in OPERATIONS for reasons in refusals(one).values() for r in reasons}
    assert set(PROBLEMS) - told == {"method_not_allowed"}


def test_every_operation_has_a_name_and_a_tag_of_its_own() -> None:
    assert len({one.name for one in OPERATIONS}) == len(OPERATIONS)
    assert {one.tag for one in OPERATIONS} == set(TAGS)


async def test_every_route_is_described_and_every_description_has_its_route(
    tmp_path: Path,
) -> None:
    """Add a route, and this fails until ``webhook_server/description`` has it; CONTRIBUTING.md."""
    settings = settings_for(f"sqlite:///{tmp_path / 'none.db'}", "redis://127.0.0.1:1/0")
    async with open_resources(settings) as resources:  # nothing is connected to
        routes = {
            (route.method, route.resource.canonical)
            for route in make_app(resources).router.routes()
            if route.resource is not None and route.method not in ("HEAD", "*")  # * refuses
        }
    assert routes == {(one.method, one.path) for one in OPERATIONS}


def test_each_refusal_of_a_signature_says_what_to_look_at() -> None:
    """The reasons are those that the verifier raises, each with words of its own."""
    source = (ROOT / "paystate" / "flutterwave" / "signatures.py").read_text("utf-8")
    raised = set(re.findall(r'SignatureRejected\("(\w+)"\)', source))
    for reason in raised:
        document = orjson.loads(from_error(SignatureRejected(reason)).body)
        assert document["detail"] != reason.replace("_", " "), reason
    assert raised == {"missing", "repeated", "malformed", "mismatch", "other_api"}
