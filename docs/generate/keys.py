"""``keys.md``: everything in Redis, by calling what names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from docs.generate.tables import code, table
from paystate import keys as module
from paystate.keys import Entity, EntityKind, Keys
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL

__all__ = ["named", "page"]

_CHARGE = Entity("default", EntityKind.CHARGE, "7001")
_KINDS = (
    _CHARGE,
    Entity("default", EntityKind.TRANSFER, "77"),
    Entity("default", EntityKind.REFERENCE, "order/1"),
    Entity("shop", EntityKind.CHARGE, "7001"),
)
# What a parameter of that name is called with.
_GIVEN = {"entity": _CHARGE, "merchant": "shop", "window": "2026-11-23T10"}
# They read names, and make none.
_NOT_NAMES = {"entity_of"}


def named() -> dict[str, tuple[str, str]]:
    """Return each name that `Keys` gives: an example of it, and what it is."""
    keys, found = Keys(), {}
    for name, member in inspect.getmembers(Keys):
        if name.startswith("_") or name in _NOT_NAMES or name == "prefix":
            continue
        if isinstance(member, property):
            example, doc = getattr(keys, name), member.__doc__
        elif callable(member):
            example, doc = _called(getattr(keys, name)), member.__doc__
        else:
            continue
        sentence = " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())
        found[name] = (example, sentence.removeprefix("Return the ").removeprefix("Return "))
    return found


def _called(method: Callable[..., str]) -> str:
    wanted = inspect.signature(method).parameters
    return method(
        **{
            name: _GIVEN.get(name, 1 if one.annotation == "int" else name)
            for name, one in wanted.items()
        }
    )


def page() -> str:
    """Return the page."""
    keys = Keys()
    rows = [(code(example), meaning) for example, meaning in named().values()]
    forms = [(code(one.kind), code(one.merchant), code(one.id), code(keys.hash(one)))
             for one in _KINDS]  # fmt: skip
    times = [(code(status), str(DEFAULT_TTL.seconds(status))) for status in Status]
    about = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2].replace("``", "`")
    return (
        "# Keys and channels\n\n" + about + "\n\n" + table(("example", "what it is"), rows)
        + "\n## Identities\n\n" + table(("kind", "merchant", "id", "hash"), forms)
        + "\n## Times to live of a hash\n\n"
        "In seconds, by default, with up to "
        f"{DEFAULT_TTL.jitter:.0%} more at random. Kept is not served: docs/protocol.md.\n\n"
        + table(("status", "seconds"), times)
    )  # fmt: skip
