"""What is newer than the description of the API and the rules for commands, and has neither yet."""

from __future__ import annotations

__all__ = ["COMMANDS", "REASONS", "ROUTES"]

ROUTES: set[tuple[str, str]] = set()
REASONS: set[str] = {"other_api", "too_many_calls"}
COMMANDS: set[str] = set()
