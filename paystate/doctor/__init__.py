"""Looks for what operators get wrong, and says how to mend each.

Two steps. First the *facts* are gathered, from all servers at once and each within a time limit:
what a server says of itself, what became of one harmless call. Then every *check* judges them: a
small function with a stable name, which knows nothing of the others, so that none can end them.
What could not be learnt (a server that is away, a command that is forbidden) makes the checks that
need it `skipped`, with the reason.

Nothing is changed but one key of the doctor's own in the cache, which is deleted again, and, only
where it is asked for, one event of an ignored type in the inbox.
"""

from paystate.doctor.case import Case, Options, open_case
from paystate.doctor.examining import CHECKS, examine, judge
from paystate.doctor.findings import Finding, Outcome

__all__ = ["CHECKS", "Case", "Finding", "Options", "Outcome", "examine", "judge", "open_case"]
