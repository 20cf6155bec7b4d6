"""Every setting that has a variable."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.settings.access import Access
from paystate.settings.keeping import Keeping
from paystate.settings.places import Places
from paystate.settings.provider import Provider
from paystate.settings.watching import Watching

__all__ = ["Variables"]


@dataclass(frozen=True, repr=False)
class Variables(Watching, Keeping, Access, Provider, Places):
    """Every setting that has a variable. They are listed from the last of these to the first."""
