"""Plays a script: one at a time, in order, with all that comes of it.

While a script is played every webhook goes out on the script's own clock, one after the other, so
that the same seed and script give the same deliveries each time.
"""

from __future__ import annotations

import asyncio
import contextlib
from decimal import InvalidOperation
from functools import partial
from typing import Any

from aiohttp import web

from paystate.flutterwave.sandbox.acts import ACTS, Stage
from paystate.flutterwave.sandbox.provider import Sandbox
from paystate.flutterwave.sandbox.records import TruthRefused
from paystate.flutterwave.sandbox.schedule import InTurn
from paystate.flutterwave.sandbox.script import Script, Step

__all__ = ["PLAYER", "Player"]


class Player:
    """Plays scripts on `sandbox`; `stop` before closing what it sends with."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._task: asyncio.Task[None] | None = None
        self._steps = 0
        self._done = 0
        self._problems: list[dict[str, Any]] = []

    @property
    def is_playing(self) -> bool:
        """Say whether a script is being played."""
        return self._task is not None and not self._task.done()

    def start(self, script: Script) -> None:
        """Begin to play. Raises TruthRefused (`conflict`) while another one is played."""
        if self.is_playing:
            raise TruthRefused("conflict", "a script is being played; stop it first")
        self._steps, self._done, self._problems = len(script), 0, []
        self._task = asyncio.create_task(self._play(script))

    async def over(self) -> None:
        """Return once the script, if any, has been played and its webhooks are through."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """End the script; webhooks that it has not sent yet are never sent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def to_json(self) -> dict[str, Any]:
        """Return how far it has come; `problems` are the steps that could not be done."""
        return {
            "playing": self.is_playing,
            "steps": self._steps,
            "done": self._done,
            "problems": list(self._problems),
        }

    async def _play(self, script: Script) -> None:
        sender = self._sandbox.sender
        schedule, stage = InTurn(sender.sleep), Stage(self._sandbox)
        for number, step in enumerate(script, start=1):
            schedule.after(step.at_s, partial(self._do, stage, number, step))
        with sender.on(schedule):
            await schedule.run()

    async def _do(self, stage: Stage, number: int, step: Step) -> None:
        try:
            ACTS[step.do][0](stage, dict(step.body))
        except (TruthRefused, ValueError, TypeError, LookupError, InvalidOperation) as problem:
            self._problems.append({"step": number, "do": step.do, "problem": str(problem)})
        self._done += 1


PLAYER: web.AppKey[Player] = web.AppKey("player", Player)
