"""The cache of the model: the four scripts of `paystate/cache/*.lua`, and what others do instead.

A hash is ``(status, version, floor, age, token, token_age)``; times are in ticks. `token` is the
number of the lookup that may fill (from 1), 0 for none, `LOST` for one whose holder has gone.

The incarnation needs no field: when it changes, whatever it stands beside is worth no more than
what has run out. So a promotion makes leases and tokens run out, unless rule 7 is left out.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.rows import SUCCESSFUL, WORDS

NOTHING = -1
LOST = 99
Hash = tuple[int, int, int, int, int, int]
EMPTY: Hash = (NOTHING, 0, 0, 0, 0, 0)


class Read(NamedTuple):
    """What a reader has read from the database. `cacheable`: no event open or held."""

    shown: int
    version: int
    cacheable: bool


class Paystate:
    """The protocol as built; `lease` 0 is the strict mode. `without` names a rule left out."""

    name = "paystate"
    marks_before_worker_commits = True
    deletes_twice = False

    def __init__(self, lease: int, without: str = "") -> None:
        self.lease = lease
        self.without = without
        self.waits = lease + (lease + 1) // 2  # one and a half

    def hit(self, held: Hash) -> tuple[int, int] | None:
        """Return the status and version that a lookup is answered with now, or None."""
        status, version, floor, age, _, _ = held
        if status == SUCCESSFUL:
            return status, version
        if status != NOTHING and self.lease and version >= floor and age <= self.lease:
            return status, version
        return None

    def grant(self, held: Hash, reader: int) -> tuple[Hash, bool]:
        """Miss: give `reader` the token, if nobody has it."""
        if not self.lease or held[4]:
            return held, False
        return (*held[:4], reader, 0), True

    def offers(self, read: Read, token: bool) -> bool:
        """Say whether a reader tries to fill at all."""
        if read.shown == SUCCESSFUL:
            return True
        return token and self.lease > 0 and (read.cacheable or self.without == "5")

    def fill(self, held: Hash, reader: int, read: Read) -> Hash:
        """Store what was read, if it may be."""
        status, version, floor, _, token, token_age = held
        if read.version < floor or (status != NOTHING and read.version < version):
            return held
        if read.shown == SUCCESSFUL:
            if status == SUCCESSFUL and version == read.version:
                return held
            return SUCCESSFUL, read.version, 0, 0, 0, 0
        if status == SUCCESSFUL:
            return held
        if self.without == "4":
            return read.shown, read.version, floor, 0, 0, 0
        if token != reader or token_age >= self.lease:
            return held
        return read.shown, read.version, floor, token_age, 0, 0

    def mark(self, held: Hash, version: int, shown: int) -> Hash:
        """Invalidate what is older than `version`."""
        del shown
        if held[0] == SUCCESSFUL:
            return (*held[:4], 0, 0)
        floor = max(held[2], version)
        if held[0] != NOTHING and held[1] < floor:
            return NOTHING, 0, floor, 0, 0, 0
        return held[0], held[1], floor, held[3], 0, 0

    def put(self, held: Hash, version: int, shown: int) -> Hash:
        """Write a committed status through."""
        if shown == SUCCESSFUL:
            if held[0] != SUCCESSFUL or held[1] < version:
                return SUCCESSFUL, version, 0, 0, 0, 0
            return held
        return held if held[0] == SUCCESSFUL else self.mark(held, version, shown)

    def tick(self, held: Hash) -> Hash:
        """Let one tick pass; a token that has run out is none."""
        status, version, floor, age, token, token_age = held
        if status not in (NOTHING, SUCCESSFUL):
            age = min(age + 1, self.lease + 1)
        if token:
            token_age += 1
            if token_age >= self.lease:
                token = token_age = 0
        return status, version, floor, age, token, token_age

    def promoted(self, held: Hash) -> Hash:
        """Return what a copy of `held` is worth on a server that was promoted or restarted."""
        if self.without == "7":
            return held
        status, version, floor, age, _, _ = held
        if status not in (NOTHING, SUCCESSFUL):
            age = self.lease + 1
        return status, version, floor, age, 0, 0

    @staticmethod
    def forget(held: Hash, reader: int) -> Hash:
        """The reader has gone: its token stays until it runs out, and nobody can use it."""
        return (*held[:4], LOST, held[5]) if held[4] == reader else held


class Naive(Paystate):
    """Entries that answer for as long as they are there; any reader may fill."""

    marks_before_worker_commits = False
    writes = ""  # what stands for a mark, in words
    has_tokens = False

    def __init__(self) -> None:
        super().__init__(1)

    def hit(self, held: Hash) -> tuple[int, int] | None:
        return None if held[0] == NOTHING else (held[0], held[1])

    def grant(self, held: Hash, reader: int) -> tuple[Hash, bool]:
        return held, True

    def offers(self, read: Read, token: bool) -> bool:
        return True

    def fill(self, held: Hash, reader: int, read: Read) -> Hash:
        return read.shown, read.version, 0, 0, 0, 0

    def put(self, held: Hash, version: int, shown: int) -> Hash:
        return self.mark(held, version, shown)

    def tick(self, held: Hash) -> Hash:
        return held

    def promoted(self, held: Hash) -> Hash:
        return held


class PlainSet(Naive):
    """Whoever knows a status SETs it."""

    name = "plain-set"
    writes = "sets the key to what it has committed"

    def mark(self, held: Hash, version: int, shown: int) -> Hash:
        return shown, version, 0, 0, 0, 0


class Delete(Naive):
    """Whoever has changed the database DELetes the key; readers fill."""

    name = "delete"
    writes = "deletes the key"

    def mark(self, held: Hash, version: int, shown: int) -> Hash:
        return EMPTY


class DeleteTwice(Delete):
    """Delete, wait a while, delete again, and only then acknowledge."""

    name = "delete-twice"
    deletes_twice = True


class CompareAndSet(Naive):
    """Everybody stores, but only over a lower version."""

    name = "compare-and-set"
    writes = "sets the key, unless a later version is there"

    def fill(self, held: Hash, reader: int, read: Read) -> Hash:
        return self.mark(held, read.version, read.shown)

    def mark(self, held: Hash, version: int, shown: int) -> Hash:
        return (shown, version, 0, 0, 0, 0) if version > held[1] else held


class MemcacheLease(Delete):
    """A miss gives out a token, a delete takes it back, a fill needs it. Workers delete twice."""

    name = "memcache-lease"
    has_tokens = True
    marks_before_worker_commits = True

    def grant(self, held: Hash, reader: int) -> tuple[Hash, bool]:
        return (held, False) if held[4] else ((*held[:4], reader, 0), True)

    def offers(self, read: Read, token: bool) -> bool:
        return token

    def fill(self, held: Hash, reader: int, read: Read) -> Hash:
        return (read.shown, read.version, 0, 0, 0, 0) if held[4] == reader else held

    def forget(self, held: Hash, reader: int) -> Hash:  # the token runs out at once
        return (*held[:4], 0, 0) if held[4] == reader else held


NAIVE = {d.name: d for d in (PlainSet, Delete, DeleteTwice, CompareAndSet, MemcacheLease)}


def word(status: int) -> str:
    """Return a status as text."""
    return "nothing" if status == NOTHING else WORDS[status].value
