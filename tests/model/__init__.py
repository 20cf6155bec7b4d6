"""The explicit-state model of the coherence protocol and of the change feed.

``python -m tests.model --all`` explores it; `docs/proof.md` tells what it shows.
"""
