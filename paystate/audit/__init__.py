"""The standing audit: asks as a customer does, compares with the database, and says what is wrong.

It writes nothing but what it has found. `docs/audit.md` says what each finding means.
"""

from paystate.audit.ledger import SCALES_S, Ledger
from paystate.audit.open import Audit, open_audit
from paystate.audit.verdicts import Fault, nines

__all__ = ["SCALES_S", "Audit", "Fault", "Ledger", "nines", "open_audit"]
