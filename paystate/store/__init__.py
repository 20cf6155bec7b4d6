"""The system of record: PostgreSQL, or SQLite on one host, behind one interface."""

from paystate.store.changelog import Page
from paystate.store.claims import Claimed
from paystate.store.inbox import Ending, NewEvent, Recorded
from paystate.store.settle import Decision, Settled
from paystate.store.store import RefusedDecision, Store, open_store

__all__ = [
    "Claimed",
    "Decision",
    "Ending",
    "NewEvent",
    "Page",
    "Recorded",
    "RefusedDecision",
    "Settled",
    "Store",
    "open_store",
]
