"""The store as the flows see it: acknowledge, claim, settle, read, replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from sqlalchemy import text

from paystate.changes import Cursor
from paystate.errors import PaystateError, StoreUnavailable
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.store import changelog, claims, fresh, inbox, known, looking, rows, settle, unlocked
from paystate.store.changelog import Page, Versions
from paystate.store.claims import InboxGauges
from paystate.store.customers import Customers
from paystate.store.engine import Database, open_database
from paystate.store.epoch import Epoch
from paystate.store.erasing import Erasing
from paystate.store.expectations import Expectations
from paystate.store.folding import Decision, Settled
from paystate.store.inbox import NewEvent, Recorded
from paystate.store.known import Details, Stamp
from paystate.store.listings import Listings
from paystate.store.looking import Look
from paystate.store.operations import Operations
from paystate.store.refusals import REFUSALS, RefusedDecision, bisect
from paystate.store.revision import latest_revision, not_migrated
from paystate.store.sampling import Sampling
from paystate.store.settle import BeforeCommit
from paystate.store.unsettled import Unsettled
from paystate.updates import OverlayJson

__all__ = ["Store", "open_store"]


class Store:
    """The system of record. Every method raises StoreUnavailable if it cannot be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Whether the last acknowledgement without a lock has failed.
        self._cautious = False

    @property
    def dialect(self) -> str:
        """The SQL dialect in use: postgresql or sqlite."""
        return self._database.dialect

    @property
    def sampling(self) -> Sampling:
        """What the audit asks of the database, and what it writes down there."""
        return Sampling(self._database)

    @property
    def operations(self) -> Operations:
        """What operators ask of the database and do to it."""
        return Operations(self._database)

    @property
    def expectations(self) -> Expectations:
        """What is expected to be paid."""
        return Expectations(self._database)

    @property
    def epoch(self) -> Epoch:
        """What begins a new history after a restore."""
        return Epoch(self._database)

    @property
    def unsettled(self) -> Unsettled:
        """What the reconciler asks about."""
        return Unsettled(self._database)

    @property
    def listings(self) -> Listings:
        """How far the provider's own lists have been read."""
        return Listings(self._database)

    async def acknowledge(self, events: Sequence[NewEvent]) -> list[Recorded | Exception]:
        """Record events in one commit; one that the database refuses harms no other.

        Returns what became of each, in order: an exception only for an event that cannot be
        recorded even alone.
        """

        async def attempt(some: Sequence[NewEvent]) -> list[Recorded]:
            return await self._database.write(lambda c: inbox.acknowledge(c, self.dialect, some))

        done = await self._acknowledge_fresh(events)
        rest = [event for event in events if event.event_key not in done]
        results: list[Recorded | Exception] = []
        if rest:
            try:
                results = await bisect(attempt, rest)
                self._cautious = False
            except PaystateError as e:
                if not done:
                    raise
                results = [e] * len(rest)  # what has been committed must still be told
        others = iter(results)
        return [done.get(event.event_key) or next(others) for event in events]

    async def look(self, ids: Sequence[int], *, holder: str | None = None) -> Look:
        """Return what is known of open events; see `paystate.store.looking.look`."""
        return await looking.look(self._database, ids, holder)

    async def settle(
        self,
        decisions: Sequence[Decision],
        before_commit: BeforeCommit,
        *,
        look: Look | None = None,
        holder: str = "",
    ) -> list[Settled | Exception]:
        """Apply decisions: what is plain by `look` in one statement, the rest under locks.

        Returns one result for each transaction that it took. RefusedDecision stands for one
        decision that cannot be applied even alone; another exception for a part that could not be
        applied now. Raises StoreUnavailable, and what `before_commit` raises, if nothing was.
        `holder` is written down as who has settled them.
        """
        results: list[Settled | Exception] = []
        rest = list(decisions)
        if look is not None and look.writers:
            # Where it was refused, or nobody knows whether it was committed, the locks show it.
            with suppress(*REFUSALS, asyncpg.PostgresError, StoreUnavailable):
                settled, rest = await unlocked.apply(
                    self._database, rest, before_commit, look, holder
                )
                results += [settled] if settled is not None else []
        if rest:
            try:
                results += await self._settle(rest, before_commit, holder)
            except PaystateError as e:
                if not results:
                    raise
                results.append(e)  # what has been committed must still be told
        return results

    async def _settle(
        self, decisions: Sequence[Decision], before_commit: BeforeCommit, holder: str
    ) -> list[Settled | Exception]:
        """Apply decisions under locks, split where the database refuses one of them."""
        try:
            return [
                await self._database.write(
                    lambda c: settle.settle(c, self.dialect, decisions, before_commit, holder)
                )
            ]
        except REFUSALS as e:
            if len(decisions) == 1:
                return [RefusedDecision(decisions[0], e)]
        half = len(decisions) // 2
        results: list[Settled | Exception] = []
        for part in (decisions[:half], decisions[half:]):
            try:
                results += await self._settle(part, before_commit, holder)
            except PaystateError as e:
                if not any(isinstance(r, Settled) for r in results):
                    raise
                results.append(e)  # what the other half has committed must still be told
        return results

    async def claim(
        self,
        holder: str,
        *,
        claim_ms: int,
        ids: Sequence[int] | None = None,
        grace_ms: int = 0,
        most: int = 200,
    ) -> list[int]:
        """Take rows that are due and that nobody holds: of `ids`, or the ones longest due.

        Returns their ids; see `paystate.store.claims`.
        """
        if ids is not None:
            return await claims.claim(self._database, ids, holder=holder, claim_ms=claim_ms)
        return await self._database.write(
            lambda c: claims.claim_due(
                c, holder=holder, claim_ms=claim_ms, grace_ms=grace_ms, most=most
            )
        )

    async def release(self, holder: str, ids: Sequence[int]) -> None:
        """Let go of claimed rows; see `paystate.store.claims.release`."""
        await self._database.write(lambda c: claims.release(c, self.dialect, ids, holder=holder))

    async def defer(
        self, holder: str, ids: Sequence[int], *, wait_ms: int, reason: str, counted: bool
    ) -> None:
        """Put open rows off; see `paystate.store.claims.defer`."""
        await self._database.write(
            lambda c: claims.defer(
                c,
                self.dialect,
                ids,
                holder=holder,
                wait_ms=wait_ms,
                reason=reason,
                counted=counted,
            )
        )

    async def states(self, entities: Sequence[Entity]) -> dict[Entity, EntityState]:
        """Return the states of `entities` in one query; unknown ones are left out."""
        keys = sorted({entity.row_key for entity in entities})
        found = await rows.load_directly(self._database, keys)
        # Version 0 is a row that a transaction made to have something to lock.
        return {entity: state for entity, state in found.items() if state.version}

    @property
    def customers(self) -> Customers:
        """Whose payment is whose."""
        return Customers(self._database)

    @property
    def erasing(self) -> Erasing:
        """What is done to forget a customer, and to tell all that is kept of one."""
        return Erasing(self._database)

    async def payment(self, entity: Entity) -> tuple[dict[str, Any], list[OverlayJson]]:
        """Return what is known of a payment beside its status, and its overlays."""
        found = await self.details(entity)
        return found.content, found.overlays

    async def details(self, entity: Entity) -> Details:
        """Return what is known of a payment beside its status, and its stamp, as of one moment."""

        return await self._database.snapshot(lambda c: known.details_of(c, entity))

    async def stamp(self, entity: Entity) -> Stamp:
        """Return what tells whether something that was read of a payment is the latest still."""
        return await self._database.read(lambda c: known.stamp_of(c, entity))

    async def history(self, entity: Entity) -> list[dict[str, Any]]:
        """Return the inbox rows of a payment, oldest first: what came and what became of it."""

        return await self._database.read(lambda c: known.history_of(c, entity))

    async def changes_after(
        self,
        position: Cursor,
        *,
        safe: Cursor | None = None,
        most: int = 500,
        merchant: str | None = None,
    ) -> Page:
        """Return a page of changes; see `paystate.store.changelog.changes_after`."""
        return await self._database.read(
            lambda c: changelog.changes_after(c, position, safe=safe, most=most, merchant=merchant)
        )

    async def prune_changes(self, *, older_than_ms: int, most: int = 1000) -> int:
        """Remove old changes; see `paystate.store.changelog.prune`."""
        return await self._database.write(
            lambda c: changelog.prune(c, self.dialect, older_than_ms=older_than_ms, most=most)
        )

    async def versions_after(
        self, position: Cursor, *, safe: Cursor | None = None, most: int = 1000
    ) -> Versions | None:
        """Return the versions of a page of changes; None where they cost as much as all of it."""
        if self._database.lanes is None:
            return None
        return await changelog.versions_after(self._database, position, safe=safe, most=most)

    async def latest_cursor(self) -> Cursor:
        """Return the cursor of now."""
        return await self._database.read(changelog.latest_cursor)

    async def gauges(self) -> InboxGauges:
        """Return how the inbox stands."""
        return await self._database.read(claims.gauges)

    async def _acknowledge_fresh(self, events: Sequence[NewEvent]) -> dict[str, Recorded]:
        """Record what nobody has heard of, if that goes well; see `paystate.store.fresh`.

        Where it does not, even if it may have been committed, the transaction with locks finds out
        how things stand. Until that has worked it is not tried again.
        """
        if self._database.lanes is None or self._cautious:
            return {}
        try:
            return await fresh.acknowledge(self._database, events)
        except (StoreUnavailable, asyncpg.PostgresError, *REFUSALS):
            self._cautious = True
            return {}

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the database answers and has this release's schema.

        A later one will do: it was migrated for processes that are about to take our place.
        """

        async def work(connection: Any) -> str | None:
            found = await connection.execute(text("SELECT version_num FROM alembic_version"))
            held: str | None = found.scalar()
            return held

        held = await self._database.read(work)
        if held is None or held < latest_revision():
            raise not_migrated()


@asynccontextmanager
async def open_store(url: str, *, pool: int, timeout_s: float) -> AsyncIterator[Store]:
    """Open the store at `url`; closes its connections at the end."""
    database = open_database(url, pool=pool, timeout_s=timeout_s)
    try:
        yield Store(database)
    finally:
        await database.close()
