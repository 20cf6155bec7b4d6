"""The change feed of the model: late commits, lost news, and what catches them up.

It follows `paystate/feed.py` and `paystate/store/changelog.py`. Writers are transactions that get
their id when they begin and commit in any order, so that a row may become visible behind rows that
have been read. The news of a commit may be lost (its worker dies), published late, or sent into a
connection that is broken, reconnects silently, or is half open. The feed reads the log one row to
the page. Behind it stands a client: one that follows everything and comes back with its last id, or
one that follows a single payment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

# A writer's life.
WAITING, BEGUN, WRITTEN, COMMITTED, TOLD = range(5)
# The connection: half open means that one side does not know that it is gone.
DOWN, UP, HALF_OPEN = range(3)
# A client's life: one that follows everything is away or here; one that follows X gets there.
AWAY, BETWEEN, HERE = range(3)
NOTICE = (-1, 0, 0, (0, 0))
X = 0
NAMES = "XY"

Cursor = tuple[int, int]
START: Cursor = (0, 0)
LogRow = tuple[int, int, int]  # entity, version, id
Message = tuple[int, int, int, Cursor]  # entity, version, previous version, its own cursor


class FeedScenario(NamedTuple):
    """`writes`: the entities that each transaction changes.

    `loses`: transactions whose news may be lost; `breaks`: connections that may break, and half
    open ones; `in_order`: transactions and their news follow each other; `client`: "stream",
    "watch" or ""; `without`: a rule left out.
    """

    name: str
    writes: tuple[tuple[int, ...], ...]
    loses: frozenset[int] = frozenset()
    breaks: int = 0
    half_opens: int = 0
    prunes: bool = False
    polls: bool = True
    in_order: bool = False
    client: str = ""
    without: str = ""


class FeedState(NamedTuple):
    """Everything. `xids` by writer, 0 before it begins; `rows`: what each writer has logged.

    `caught`: how far a reading of the log has come (position, safe cursor, began when all was
    committed); `complete`: such a reading has ended since.
    """

    steps: tuple[int, ...]
    xids: tuple[int, ...]
    rows: tuple[tuple[LogRow, ...], ...]
    link: int
    wire: tuple[Message, ...]
    held: tuple[int, ...]
    cursor: Cursor
    resync: bool
    caught: tuple[Cursor, Cursor, bool] | None
    complete: bool
    pruned: Cursor
    client: tuple[int, tuple[int, ...], Cursor]
    left: tuple[int, int, bool, int]  # breaks, half-open ones, a prune, a client's absence
    broken: str


Step = tuple[tuple[object, ...], FeedState]


class FeedModel:
    """A scenario of the feed, to be explored."""

    def __init__(self, scenario: FeedScenario) -> None:
        self.scenario = scenario
        self.without = scenario.without
        self.entities = 1 + max(e for writes in scenario.writes for e in writes)

    def initial(self) -> FeedState:
        """Return the state in which nothing was written and the feed is connected."""
        nothing = (0,) * self.entities
        writers = len(self.scenario.writes)
        here = HERE if self.scenario.client == "stream" else AWAY
        return FeedState(
            steps=(WAITING,) * writers, xids=(0,) * writers, rows=((),) * writers, link=UP, wire=(),
            held=nothing, cursor=START, resync=False, caught=None, complete=False, pruned=START,
            client=(here, nothing, START),
            left=(self.scenario.breaks, self.scenario.half_opens, self.scenario.prunes, 1),
            broken="",
        )  # fmt: skip

    def canonical(self, state: FeedState) -> FeedState:
        """Return the state itself."""
        return state

    def steps(self, state: FeedState) -> Iterator[Step]:
        """Return every step that anyone can take."""
        for number in range(len(state.steps)):
            yield from self._write(state, number)
        yield from self._listen(state)
        yield from self._read(state)
        yield from self._suffer(state)
        if self.scenario.client == "stream":
            yield from self._stream(state)
        elif self.scenario.client == "watch":
            yield from self._watch(state)

    def at_rest(self, state: FeedState) -> bool:
        """Say whether all is told."""
        return self._quiet(state)

    def flaw(self, state: FeedState) -> str | None:
        """Return what is broken: something told backwards, or never told."""
        if state.broken:
            return state.broken
        if not self._quiet(state):
            return None
        stored = self._stored(state)
        if state.held != stored:
            return f"G3: all is quiet, and the feed holds {_versions(state.held, stored)}"
        life, known, _ = state.client
        if self.scenario.client and life == HERE:
            stored = stored[: len(known)]
            if known != stored:
                return f"G3: all is quiet, and the client holds {_versions(known, stored)}"
        return None

    def _quiet(self, state: FeedState) -> bool:
        """Say whether nothing more will come by itself: with a poll, once one has ended since."""
        if min(state.steps) < COMMITTED or state.wire or state.caught is not None:
            return False
        if self.scenario.polls and self.without != "poll":
            return state.complete
        deaf = state.link == HALF_OPEN and self.without == "heartbeat"
        return min(state.steps) == TOLD and (state.link == UP or deaf) and not state.resync

    # --- writers ---

    def _write(self, state: FeedState, number: int) -> Iterator[Step]:
        step = state.steps[number]
        on = state._replace(steps=_at(state.steps, number, step + 1))
        if step == WAITING:
            if self.scenario.in_order and min(state.steps[:number], default=TOLD) < COMMITTED:
                return
            xids = _at(state.xids, number, max(state.xids) + 1)
            yield ("begins", number, xids[number]), on._replace(xids=xids)
        elif step == BEGUN:
            wanted = self.scenario.writes[number]
            locked = {
                e
                for n, s in enumerate(state.steps)
                if s == WRITTEN
                for e in self.scenario.writes[n]
            }
            if not locked & set(wanted):
                stored = self._stored(state)
                first = 1 + sum(map(len, state.rows))
                rows = tuple((e, stored[e] + 1, first + i) for i, e in enumerate(wanted))
                yield ("writes", number, rows), on._replace(rows=_at(state.rows, number, rows))
        elif step == WRITTEN:
            yield ("commits", number), on
        elif step == COMMITTED:
            yield from self._publish(state, on, number)

    def _publish(self, state: FeedState, on: FeedState, number: int) -> Iterator[Step]:
        if number in self.scenario.loses:
            yield ("loses", number), on
        mine = state.rows[number][0]
        earlier = any(
            step == COMMITTED and n != number and state.rows[n][0] < mine
            for n, step in enumerate(state.steps)
        )
        if self.scenario.in_order and earlier:
            return
        if state.link != UP:
            yield ("publishes unheard", number), on
            return
        news = tuple((e, v, v - 1, (state.xids[number], i)) for e, v, i in state.rows[number])
        yield ("publishes", number), on._replace(wire=state.wire + news)

    # --- the wire ---

    def _listen(self, state: FeedState) -> Iterator[Step]:
        if state.wire:
            message, rest = state.wire[0], state.wire[1:]
            after = state._replace(wire=rest)
            if message == NOTICE:
                asks = self.without != "resync"
                yield ("subscribed",), after._replace(resync=state.resync or asks)
            else:
                entity, version, previous, own = message
                given = own if self.without == "safe_id" else state.cursor
                yield (
                    ("hears", entity, version),
                    self._tell(after, entity, version, previous, given),
                )
        if state.link == DOWN:
            yield ("connects",), state._replace(link=UP, wire=(NOTICE,))
        elif state.link == HALF_OPEN and self.without != "heartbeat":
            yield ("falls silent",), state._replace(link=DOWN, wire=())

    def _tell(
        self, state: FeedState, entity: int, version: int, previous: int, cursor: Cursor
    ) -> FeedState:
        """Hand a change to the client, unless as late a one was told."""
        known = state.held[entity]
        resync = state.resync
        if version <= known:
            if self.without != "greater":
                return state
            return state._replace(
                held=_at(state.held, entity, version),
                broken=f"G3: {NAMES[entity]} went from version {known} to {version}",
            )
        if known and previous > known and self.without != "gap":
            resync = True
        state = state._replace(held=_at(state.held, entity, version), resync=resync)
        life, versions, _ = state.client
        if life == AWAY or entity >= len(versions):
            return state
        if life == BETWEEN and self.without == "subscribe_first":
            return state
        later = _at(versions, entity, max(version, versions[entity]))
        return state._replace(client=(life, later, cursor))

    # --- the log ---

    def _visible(self, state: FeedState) -> list[tuple[Cursor, int, int]]:
        """Return (cursor, entity, version) of the rows that can be seen, in the cursor's order."""
        return sorted(
            ((state.xids[n], i), e, v)
            for n, step in enumerate(state.steps)
            if step >= COMMITTED
            for e, v, i in state.rows[n]
            if (state.xids[n], i) > state.pruned
        )

    def _horizon(self, state: FeedState) -> int:
        """Return the oldest transaction that still runs, else the next one."""
        running = [
            xid
            for xid, step in zip(state.xids, state.steps, strict=True)
            if step in (BEGUN, WRITTEN)
        ]
        return min(running, default=max(state.xids) + 1)

    def _safe(self, state: FeedState, before: Cursor, here: Cursor, safe: Cursor) -> Cursor:
        """Return the safe cursor after the row at `here`, which follows the position `before`.

        Once it has stayed behind the position it stays there: between two pages a transaction may
        commit whose rows lie before the position, and what was read since does not count them.
        """
        if self.without == "safe_cursor":
            return here
        moves = safe == before or self.without == "one_snapshot"
        return here if moves and here[0] < self._horizon(state) else safe

    def _read(self, state: FeedState) -> Iterator[Step]:
        if state.caught is None:
            polls = self.scenario.polls and self.without != "poll"
            if state.resync or polls:
                now = min(state.steps) >= COMMITTED
                yield (
                    ("starts reading", state.cursor),
                    state._replace(resync=False, caught=(state.cursor, state.cursor, now)),
                )
            return
        position, safe, since = state.caught
        if position < state.pruned and self.without != "pruned":
            yield ("pruned",), self._look_anew(state)
            return
        following = [row for row in self._visible(state) if row[0] > position]
        if not following:
            yield (
                ("has read", safe),
                state._replace(cursor=safe, caught=None, complete=state.complete or since),
            )
            return
        here, entity, version = following[0]
        safe = self._safe(state, position, here, safe)
        told = self._tell(state, entity, version, version - 1, safe)
        yield ("reads", entity, version), told._replace(caught=(here, safe, since))

    def _look_anew(self, state: FeedState) -> FeedState:
        """The log does not reach back so far: everyone reads the statuses themselves."""
        stored = self._stored(state, committed=True)
        complete = state.complete or (state.caught is not None and state.caught[2])
        life, versions, _ = state.client
        known = stored[: len(versions)] if life == HERE else versions
        return state._replace(
            held=stored, cursor=self._latest(state), caught=None, complete=complete,
            client=(life, known, self._latest(state)),
        )  # fmt: skip

    def _latest(self, state: FeedState) -> Cursor:
        safe = [row[0] for row in self._visible(state) if row[0][0] < self._horizon(state)]
        return max(safe, default=state.pruned)

    def _stored(self, state: FeedState, *, committed: bool = False) -> tuple[int, ...]:
        stored = [0] * self.entities
        for number, rows in enumerate(state.rows):
            if state.steps[number] >= COMMITTED or not committed:
                for entity, version, _ in rows:
                    stored[entity] = max(stored[entity], version)
        return tuple(stored)

    # --- clients ---

    def _stream(self, state: FeedState) -> Iterator[Step]:
        """Follow everything; go away once; come back with the last id."""
        life, versions, last = state.client
        if life == HERE and state.left[3]:
            left = (*state.left[:3], state.left[3] - 1)
            yield ("client leaves", last), state._replace(client=(AWAY, versions, last), left=left)
        elif life == AWAY:
            if last < state.pruned and self.without != "pruned":
                stored = self._stored(state, committed=True)
                back = (HERE, stored, self._latest(state))
                yield ("client looks anew",), state._replace(client=back)
                return
            known = list(versions)
            position = safe = last
            for here, entity, version in self._visible(state):
                if here > last:
                    known[entity] = max(known[entity], version)
                    position, safe = here, self._safe(state, position, here, safe)
            yield ("client returns", last), state._replace(client=(HERE, tuple(known), safe))

    def _watch(self, state: FeedState) -> Iterator[Step]:
        """Follow X: subscribe, then read. (Without that rule the two change places.)"""
        life, versions, last = state.client
        reads_now = (life == AWAY) == (self.without == "subscribe_first")
        if life == HERE:
            return
        if reads_now:
            stored = self._stored(state, committed=True)
            versions = tuple(map(max, versions, stored))
        label = "client reads" if reads_now else "client subscribes"
        yield (label, versions[X]), state._replace(client=(life + 1, versions, last))

    # --- what can go wrong ---

    def _suffer(self, state: FeedState) -> Iterator[Step]:
        breaks, half_opens, prunes, _ = state.left
        if breaks and state.link == UP:
            left = (breaks - 1, *state.left[1:])
            yield ("breaks",), state._replace(link=DOWN, wire=(), left=left)
            yield ("reconnects silently",), state._replace(wire=(NOTICE,), left=left)
        if half_opens and state.link == UP:
            left = (breaks, half_opens - 1, *state.left[2:])
            yield ("half opens",), state._replace(link=HALF_OPEN, left=left)
        if prunes and state.caught is None:
            safe = [row[0] for row in self._visible(state) if row[0][0] < self._horizon(state)]
            if safe:
                left = (breaks, half_opens, False, state.left[3])
                yield ("prunes", max(safe)), state._replace(pruned=max(safe), left=left)

    def describe(self, label: tuple[object, ...]) -> str:
        """Return a step in words."""
        kind, *rest = label
        if kind == "writes":
            rows = " and ".join(f"{NAMES[e]} version {v}" for e, v, _ in rest[1])  # type: ignore[attr-defined]
            return f"transaction {rest[0] + 1}: writes {rows} and their rows of the log"  # type: ignore[operator]
        if kind in ("hears", "reads"):
            where = "on the wire" if kind == "hears" else "in the log"
            return f"the feed {kind} {NAMES[rest[0]]} version {rest[1]} {where}"  # type: ignore[index]
        if kind in ("begins", "commits", "publishes", "publishes unheard", "loses"):
            ends = {
                "begins": "begins, and is given the id {}",
                "commits": "commits",
                "publishes": "its news is published",
                "publishes unheard": "its news is published, and nobody hears",
                "loses": "its news is lost, its worker dies",
            }[str(kind)]
            return f"transaction {rest[0] + 1}: {ends.format(*rest[1:])}"  # type: ignore[operator]
        return _WORDS[str(kind)].format(*rest)


_WORDS = {
    "subscribed": "the feed is told that it is subscribed",
    "connects": "the feed connects anew",
    "falls silent": "no heartbeat comes: the feed drops the connection",
    "starts reading": "the feed starts to read the log after {0}",
    "has read": "the feed has read the log to its end, and will start again after {0}",
    "pruned": "the log does not reach back so far: everyone reads the statuses anew",
    "breaks": "the connection breaks, with what was on it",
    "reconnects silently": "the connection breaks with what was on it, and is made anew unseen",
    "half opens": "the connection is half open: nothing comes any more",
    "prunes": "the log is pruned up to {0}",
    "client leaves": "the client goes away, with the last id {0}",
    "client returns": "the client is back, and is told the log after {0}",
    "client looks anew": "the client is back, gets 410, and reads the statuses anew",
    "client reads": "the client reads X: version {0}",
    "client subscribes": "the client subscribes to X",
}


def _versions(held: tuple[int, ...], stored: tuple[int, ...]) -> str:
    wrong = [
        f"{NAMES[e]} version {h} where the database has {s}"
        for e, (h, s) in enumerate(zip(held, stored, strict=True))
        if h != s
    ]
    return " and ".join(wrong)


def _at(values: tuple, number: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:number], value, *values[number + 1 :])


ALL_LOST = frozenset(range(9))
TWO, THREE = ((0,), (1,)), ((0,), (1,), (0,))
# News may be lost in every way; the poll makes it good.
POLLED = FeedScenario("polled", TWO, loses=ALL_LOST, breaks=1, half_opens=1)
# Three transactions, of which one may commit between two pages of the log.
PAGED = FeedScenario("paged", THREE)
# No poll: what the wire itself gives away is enough for what the wire loses.
WIRED = FeedScenario("wired", TWO, breaks=1, half_opens=1, polls=False)
# No poll, and a worker that dies between commit and news: the next news shows the gap.
GAP = FeedScenario("gap", ((0,), (0, 1), (0,)), loses=frozenset({1}), polls=False, in_order=True)
PRUNED = FeedScenario("pruned", TWO, loses=ALL_LOST, prunes=True)
STREAM = FeedScenario("stream", TWO, loses=ALL_LOST, client="stream")
WATCH = FeedScenario("watch", ((0,), (0,)), loses=ALL_LOST, client="watch")
FEEDS = {s.name: s for s in (POLLED, PAGED, WIRED, GAP, PRUNED, STREAM, WATCH)}
LARGE_FEEDS = {
    s.name: s
    for s in (
        POLLED._replace(name="polled, 3 writers", writes=THREE),
        WIRED._replace(name="wired, 3 writers", writes=THREE),
        PRUNED._replace(name="pruned, 3 writers", writes=THREE, loses=frozenset({1})),
        STREAM._replace(name="stream, 3 writers", writes=THREE, loses=frozenset({1})),
        WATCH._replace(name="watch, 3 writers", writes=THREE, loses=frozenset({0})),
    )
}
FEED_RULES = {
    "safe_cursor": (POLLED, "the cursor moves only over what cannot get company"),
    "one_snapshot": (PAGED, "the safe cursor stays once a page has left it behind"),
    "poll": (POLLED, "the log is read every 20 s in any case"),
    "greater": (POLLED, "a change is applied only if its version is greater"),
    "resync": (WIRED, "every subscription is followed by a reading of the log"),
    "heartbeat": (WIRED, "a connection without a heartbeat is dropped"),
    "gap": (GAP, "a version that does not follow shows that something was lost"),
    "pruned": (PRUNED, "who is behind what was pruned is told so"),
    "safe_id": (STREAM, "the id that a client is given is the safe cursor"),
    "subscribe_first": (WATCH, "subscribe first, then read"),
}
