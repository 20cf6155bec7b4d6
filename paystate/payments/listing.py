"""Read the provider's own lists: they hold the payments of which no webhook ever came.

Each list is read in windows of time that overlap a little, page by page; how far is written down
after each page, so that whoever comes next goes on there. What a list has and we do not is brought
in, and so is what is further than ours. What it calls pending is asked about by id from then on.

A list that turns out to go back in time is left as soon as it has come to before the window; one
that does not is read to its end. Charges, transfers and chargebacks have lists of their own. An
account that may not see one of the others, or a list that cannot be read, is no reason to leave its
charges alone, nor is an API that is down or refuses us one to leave the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.flutterwave.listing import ListPage, Lists, made_ms
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.disputing import Disputes
from paystate.payments.observing import Observation, Observer
from paystate.payments.recording import Recorder
from paystate.payments.report import Report
from paystate.payments.settling import Provider, Settler
from paystate.status import is_terminal
from paystate.store import Store
from paystate.store.listings import Listing
from paystate.updates import Api

__all__ = ["Lister"]

log = logger()

CLAIM_MS = 60_000
# A payment is listed when it is made, give or take what the provider's read side lags behind.
OVERLAP_MS = 2 * 60 * 1000
# Of one list in one pass: the rest of the budget is for questions.
MOST_PAGES = 50


class _Which(NamedTuple):
    """One of a merchant's lists. `name` is kept in the database, as that of how far it was read."""

    name: str
    api: Api
    what: Lists


_LISTS = (
    _Which("v3", Api.V3, Lists.CHARGES),
    _Which("v3:transfer", Api.V3, Lists.TRANSFERS),
    _Which("v4", Api.V4, Lists.CHARGES),
    _Which("v4:transfer", Api.V4, Lists.TRANSFERS),
    # After the charges that they are about.
    _Which("v3:chargeback", Api.V3, Lists.CHARGEBACKS),
    _Which("v4:chargeback", Api.V4, Lists.CHARGEBACKS),
)
# What comes in the place of a list, and will do so again.
_NO_LIST = frozenset({"unreadable", "no_data"})
# Chargebacks change in place: their lists are read again from so far back, and less often.
DISPUTED_MS = 120 * 24 * 3600 * 1000
DISPUTED_EVERY = 12


class Lister:
    """Reads lists; any number beside each other. `every_s`: seconds between two windows.

    `back_s`: how far back the very first window goes. `after_s`: what is younger is left to its
    webhook.
    """

    def __init__(
        self,
        store: Store,
        providers: Mapping[str, Provider],
        recorder: Recorder,
        settler: Settler,
        metrics: Metrics,
        *,
        every_s: int,
        back_s: int,
        after_s: int,
    ) -> None:
        self._store = store
        self._providers = providers
        self._observer = Observer(store, recorder, settler)
        self._disputes = Disputes(store, recorder, settler)
        self._metrics = metrics
        self._every_ms = every_s * 1000
        self._back_ms = back_s * 1000
        self._lag_ms = after_s * 1000

    async def read(
        self,
        report: Report,
        merchant: str | None = None,
        *,
        now: bool = False,
        told: Callable[[Report], None] = lambda _: None,
    ) -> None:
        """Read the lists that are due, of one merchant or of all; `now`: those that are not too.

        Raises StoreUnavailable.
        """
        for name, provider in tuple(self._providers.items()):  # merchants come and go
            if merchant not in (None, name):
                continue
            for which in _LISTS:
                if report.left(name, which.api) or which.api not in provider.client.apis:
                    continue
                disputes = which.what is Lists.CHARGEBACKS
                listing = await self._store.listings.claim(
                    name, which.name, claim_ms=CLAIM_MS,
                    back_ms=DISPUTED_MS if disputes else self._back_ms,
                    overlap_ms=DISPUTED_MS if disputes else OVERLAP_MS,
                    lag_ms=self._lag_ms, now=now,
                )  # fmt: skip
                if listing is not None:
                    await self._window(report, name, which, provider.client, listing, told)

    async def _window(
        self,
        report: Report,
        merchant: str,
        which: _Which,
        client: FlutterwaveClient,
        listing: Listing,
        told: Callable[[Report], None],
    ) -> None:
        page, oldest_ms, ordered = listing.page, None, listing.page == 1
        again_ms, before = 0, None
        every_ms = self._every_ms * (DISPUTED_EVERY if which.what is Lists.CHARGEBACKS else 1)
        for _ in range(MOST_PAGES):
            try:
                found = await client.listed(
                    which.api, which.what, listing.since_ms, listing.until_ms, page,
                    purpose=Purpose.RECONCILE,
                )  # fmt: skip
            except (ProviderUnavailable, ProviderRejected) as e:
                self._metrics.provider_calls.labels(Purpose.RECONCILE, e.reason).inc()
                log.info("list_put_off", list=which.name, page=page, reason=e.reason)
                if which.what is Lists.CHARGES:
                    report.leave(merchant, which.api, e.reason, client.apis)
                elif isinstance(e, ProviderRejected) or e.reason in _NO_LIST:
                    again_ms = every_ms
                break
            self._metrics.provider_calls.labels(Purpose.RECONCILE, "found").inc()
            await self._bring_in(report, merchant, found, listing.until_ms)
            told(report)
            oldest_ms = found.ordered(oldest_ms) if ordered else None
            ordered = oldest_ms is not None
            last = found.is_empty or (found.pages is not None and page >= found.pages)
            # One that gives the same page whatever is asked for has no other.
            last = last or (found.updates, found.overlays) == before
            before = found.updates, found.overlays
            if last or (oldest_ms is not None and oldest_ms < listing.since_ms):
                await self._store.listings.end(listing, every_ms=every_ms)
                return
            page += 1
            await self._store.listings.turn_page(listing, page, claim_ms=CLAIM_MS)
        await self._store.listings.turn_page(listing, page, claim_ms=again_ms)

    async def _bring_in(self, report: Report, merchant: str, page: ListPage, until_ms: int) -> None:
        report.pages += 1
        report.listed += len(page.updates) + len(page.overlays)
        report.found_in_lists += await self._disputes.bring_in(merchant, page.overlays)
        if page.unreadable:
            log.warning("list_unreadable", merchant=merchant, payments=page.unreadable)
        by_entity = {
            Entity.payment(merchant, update.kind, update.payment_id): update
            for update in page.updates
            if (made_ms(update) or 0) <= until_ms
        }
        states = await self._store.states(list(by_entity))
        # While an event is open, a worker asks, and knows more than a list does.
        observations = [
            Observation(merchant, update, state)
            for entity, update in by_entity.items()
            if (state := states.get(entity)) is None or not state.open_events
        ]
        brought = await self._observer.observe(observations, type_="listing")
        report.found_in_lists += sum(brought)
        # Of what is pending, no webhook need have told.
        settled = [
            one for one, changed in zip(observations, brought, strict=True)
            if changed and is_terminal(one.found.status)
        ]  # fmt: skip
        self._metrics.reconcile_found.labels("list").inc(len(settled))
