"""What a reader raises::

    ReaderError             has a `reason`, like everything paystate raises
    ├── ApiMissing          only the HTTP API can tell, and the reader was given none
    ├── ApiUnavailable      the API cannot be reached, is too slow, or has a fault: try again
    ├── ApiRefused          the API refuses the token or the question: trying again changes nothing
    ├── PaymentUnknown      the API knows no such payment or reference
    └── ReaderUnavailable   neither the cache nor the API could be asked: nothing is known

No message carries a token, a password or an address.
"""

from __future__ import annotations

from paystate.errors import PaystateError, PermanentError, TransientError

__all__ = [
    "ApiMissing",
    "ApiRefused",
    "ApiUnavailable",
    "PaymentUnknown",
    "ReaderError",
    "ReaderUnavailable",
]


class ReaderError(PaystateError):
    """The root of the tree above."""


class ApiMissing(ReaderError, PermanentError):
    """Only the HTTP API can answer this; give the reader an `api_url`."""


class ApiUnavailable(ReaderError, TransientError):
    """The HTTP API did not answer, or not in a way that can be used."""


class ApiRefused(ReaderError, PermanentError):
    """The HTTP API refused the token, or a question that it cannot make sense of."""


class PaymentUnknown(ReaderError, PermanentError):
    """The HTTP API knows no payment or reference of that name."""


class ReaderUnavailable(ReaderError, TransientError):
    """Neither the cache nor the HTTP API could be asked."""
