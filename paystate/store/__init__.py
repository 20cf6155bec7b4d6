"""The system of record: PostgreSQL, or SQLite on one host, behind one interface."""

from paystate.store.changelog import Page
from paystate.store.claims import Claimed
from paystate.store.folding import Decision, Settled
from paystate.store.inbox import Ending, NewEvent, Recorded
from paystate.store.looking import Look
from paystate.store.refusals import RefusedDecision
from paystate.store.store import Store, open_store

__all__ = [
    "Claimed",
    "Decision",
    "Ending",
    "Look",
    "NewEvent",
    "Page",
    "Recorded",
    "RefusedDecision",
    "Settled",
    "Store",
    "open_store",
]
