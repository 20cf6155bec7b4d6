"""Which schedules to run, so that every one that can make a difference is run.

Dynamic partial-order reduction (Flanagan and Godefroid, 2005) with sleep sets: two schedules that
differ only in the order of steps which do not depend on each other are the same to everybody. After
each run, every pair of dependent steps that could have gone the other way round is a reason to go
back to the earlier one and let the later one's process go first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.interleavings.steps import Step, dependent

__all__ = ["Search"]


@dataclass(slots=True)
class _Point:
    """A choice: the moves there were, the ones to try, the ones that need not be tried (again)."""

    moves: dict[str, Step]
    asleep: dict[str, Step]
    wanted: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    taken: str = ""

    @property
    def step(self) -> Step:
        """The step that was taken here."""
        return self.moves[self.taken]


def _related(key: str, step: Step, other_key: str, other: Step) -> bool:
    """Say whether the order of two steps can matter; within a process it can: memory is shared."""
    return key.partition(":")[0] == other_key.partition(":")[0] or dependent(step, other)


class Search:
    """The tree of choices, one path of it at a time.

    `restart`, then `choose` at every choice of the run, then `learn`; until nothing is
    `unfinished`.
    """

    def __init__(self) -> None:
        self.unfinished = True
        self._path: list[_Point] = []
        self._depth = 0

    def restart(self) -> None:
        """Begin a run."""
        self._depth = 0

    def choose(self, moves: dict[str, Step]) -> str | None:
        """Return which of `moves` to take, or None if the run need not go on."""
        if self._depth == len(self._path):
            point = _Point(moves, self._inherited())
            self._path.append(point)
            awake = [key for key in moves if key not in point.asleep]
            if not awake:
                return None
            point.taken = awake[0]
        point = self._path[self._depth]
        if point.taken not in moves:
            raise LookupError(f"the same choices gave another run: {point.taken}, {sorted(moves)}")
        self._depth += 1
        return point.taken

    def _inherited(self) -> dict[str, Step]:
        """Return what was tried before this point, and nothing since depends on it."""
        if not self._path:
            return {}
        last = self._path[-1]
        before = last.asleep | {key: last.moves[key] for key in last.tried}
        return {
            key: step
            for key, step in before.items()
            if key != last.taken and not _related(key, step, last.taken, last.step)
        }

    def learn(self) -> None:
        """See what the run has shown, and go to the next choice that is worth it."""
        path = [point for point in self._path if point.taken]
        self._want_reversals(path)
        self._path = path
        while self._path:
            point = self._path[-1]
            point.tried.add(point.taken)
            left = sorted(point.wanted - point.tried - point.asleep.keys())
            if left:
                point.taken = left[0]
                return
            self._path.pop()
        self.unfinished = False

    def _want_reversals(self, path: list[_Point]) -> None:
        """Ask for the other order of each pair of steps that raced."""
        created = [self._created(path, j) for j in range(len(path))]
        before: list[set[int]] = []
        for j, late in enumerate(path):
            mine: set[int] = set()
            if created[j] >= 0:
                mine |= before[created[j]] | {created[j]}
            # From the latest: what is before an ordered one is ordered itself, and no race.
            for i in range(j - 1, -1, -1):
                early = path[i]
                if i in mine or not _related(early.taken, early.step, late.taken, late.step):
                    continue
                self._want(path, i, j, mine, before)
                mine |= before[i] | {i}
            before.append(mine)

    @staticmethod
    def _created(path: list[_Point], j: int) -> int:
        """Return the index of the step that made step `j` possible, or -1 if it always was."""
        key = path[j].taken
        i = j
        while i > 0 and key in path[i - 1].moves and path[i - 1].taken != key:
            i -= 1
        return i - 1

    @staticmethod
    def _want(
        path: list[_Point], i: int, j: int, before_j: set[int], before: list[set[int]]
    ) -> None:
        """Let something go first at point `i` that leads to step `j` without step `i`."""
        point = path[i]
        # What step `j` needs and step `i` does not, and of that, what can come first.
        needed = [k for k in range(i + 1, j) if k in before_j and i not in before[k]]
        first = [k for k in needed if before[k].isdisjoint(needed)]
        if before_j.isdisjoint(needed):
            first.append(j)
        leading = {path[k].taken for k in first} & point.moves.keys()
        if not leading:
            point.wanted |= point.moves.keys()
        elif not leading & (point.wanted | point.tried | {point.taken}):
            point.wanted.add(min(leading))
