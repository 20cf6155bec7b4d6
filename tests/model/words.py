"""The steps of the model in words."""

from __future__ import annotations

from typing import Any

from tests.model.hashes import word
from tests.model.rows import ENDINGS, NOBODY, OPEN, Decision

ENTITIES = ("P", "Q", "R", "S")


def name(entity: int, payments: int) -> str:
    """Return `payment P`, `payment Q`, `reference A`, ..."""
    if entity < payments:
        return "the payment" if payments == 1 else f"payment {'PQR'[entity]}"
    return f"reference {'AB'[entity - payments]}"


def stale(entity: int, payments: int, hit: tuple[int, int], due: int, *, settled: bool) -> str:
    """Return the promise broken by an answer from the cache that has been overtaken."""
    promise = "G2" if settled else "G1"
    return (
        f"{promise}: a lookup of {name(entity, payments)} that begins now is answered "
        f"`{word(hit[0])}`, version {hit[1]}, although version {due} is promised"
    )


def false_success(entity: int, payments: int) -> str:
    """Return the promise broken by a success that the database does not know."""
    return f"G2: {name(entity, payments)} is said to be successful and is not"


def of_entity(flaw: str, entity: int, payments: int) -> str:
    """Return a flaw of the database with whose it is."""
    return f"{flaw} ({name(entity, payments)})"


def _states(told: Any, payments: int) -> str:
    parts = [
        f"{name(e, payments)} `{word(shown)}`, version {v}" for e, v, shown in told if shown >= 0
    ]
    return "; ".join(parts) or "nothing changed"


def _versions(told: Any, payments: int) -> str:
    return " and ".join(f"{name(e, payments)} below version {v}" for e, v, s in told if s >= 0)


def _answer(decision: Decision, payments: int) -> str:
    said = "" if decision.seen == NOBODY else f" says `{word(decision.seen)}`"
    where = "" if decision.link == NOBODY else f" of {name(decision.link, payments)}"
    how = "" if decision.ending == OPEN + 1 else f", to end as {ENDINGS[decision.ending]}"
    return f"the provider{said or ' is asked'}{where}{how}"


def _side(which: int) -> str:
    return " (on the promoted side)" if which else ""


_PLAIN = {
    "handler dies": "handler of event {0}: dies",
    "has waited": "handler of event {0}: has waited one and a half leases since its commit",
    "acknowledges": "handler of event {0}: acknowledges (200)",
    "cannot mark": "handler of event {0}: cannot reach the cache",
    "claims": "worker: claims event {0}",
    "worker stops": "worker of event {0}: dies, or puts the event off",
    "nothing left": "worker of event {0}: finds that it has ended",
    "cannot put": "worker of event {0}: cannot reach the cache, and publishes nothing",
}


def describe(label: tuple[Any, ...], payments: int) -> str:
    """Return a step of the protocol in words."""
    kind = label[0]
    if kind in _PLAIN:
        return _PLAIN[kind].format(label[1] + 1)
    for group in (_of_handlers, _of_workers, _of_lookups):
        text = group(kind, label, payments)
        if text:
            return text
    return _of_the_world(kind, label, payments)


def of_design(text: str, writes: str, *, tokens: bool) -> str:
    """Return a step of a naive design, which has no marks, and maybe no tokens."""
    before, marks, _ = text.partition("marks in the cache: ")
    text = before + writes if marks else text
    return text if tokens else text.removesuffix(", gets the token")


def _of_handlers(kind: str, label: tuple[Any, ...], payments: int) -> str:
    who = f"handler of event {label[1] + 1}" if len(label) > 1 else ""
    if kind == "records":
        again = " again (it had been given up)" if label[3] else ""
        return f"{who}: commits it as open{again}: {_states(label[2], payments)}"
    if kind == "repeats":
        return f"{who}: finds it recorded already: {_states(label[2], payments)}"
    if kind == "marks":
        return f"{who}: marks in the cache: drop {_versions(label[2], payments)}"
    if kind == "marks early":
        return f"{who}: marks before its commit: drop {_versions(label[2], payments)}"
    if kind == "marks unheard":
        return f"{who}: marks {_versions(label[2], payments)}, and gets no reply"
    return ""


def _of_workers(kind: str, label: tuple[Any, ...], payments: int) -> str:
    who = f"worker of event {label[1] + 1}" if len(label) > 1 else ""
    if kind == "commits":
        _, _, ending, changed, opened, marked = label
        what = "opens it where it belongs" if opened else f"commits its end ({ENDINGS[ending]})"
        how = "" if marked else ", unmarked"
        return f"{who}: {what}{how}: {_states(changed, payments)}"
    if kind == "puts":
        return f"{who}: puts {_states(label[2], payments)}"
    if kind == "locks":
        return f"{who}: locks the rows ({_answer(label[2], payments)})"
    if kind == "worker marks":
        marks = _versions(label[3], payments)
        return f"{who}: {_answer(label[2], payments)}; marks in the cache: drop {marks}"
    if kind == "worker cannot mark":
        return f"{who}: {_answer(label[2], payments)}; cannot reach the cache"
    if kind == "worker marks unheard":
        return f"{who}: {_answer(label[2], payments)}; marks, and gets no reply"
    return ""


def _of_lookups(kind: str, label: tuple[Any, ...], payments: int) -> str:
    if len(label) < 3:
        return ""
    who = f"lookup {label[1] + 1} of {name(label[2], payments)}"
    if kind == "lookup dies":
        return f"{who}: dies"
    if kind == "misses":
        return f"{who}: misses in the cache{_side(label[4])}" + (
            ", gets the token" if label[3] else ""
        )
    if kind == "cannot get":
        return f"{who}: cannot reach the cache"
    if kind == "reads":
        return f"{who}: reads the database: `{word(label[3][0])}`, version {label[3][1]}"
    if kind == "fills":
        side = _side(label[4])
        return f"{who}: fills `{word(label[3][0])}`, version {label[3][1]}, into the cache{side}"
    return ""


def _of_the_world(kind: str, label: tuple[Any, ...], payments: int) -> str:
    if kind == "evicts":
        return f"the cache evicts the key of {name(label[1], payments)}{_side(label[2])}"
    return {
        "ticks": "half a lease passes",
        "snapshot": "a replica has the cache as it is now, and falls behind",
        "fails over": "the primary is lost, the replica is promoted",
        "splits": "split brain: a second primary is promoted beside the first",
        "heals": "the split heals: what the first primary held is lost",
    }[kind]
