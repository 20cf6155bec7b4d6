"""Everything paystate raises on purpose::

    PaystateError                 has a `reason`: a metric label and a log field, never free text
    ├── TransientError            try again later; `retry_after_s` says when, if anyone knows
    │   ├── StoreUnavailable      the database cannot be reached or is not the primary
    │   ├── CacheUnavailable      Redis cannot be reached: the database answers instead
    │   ├── QueueUnavailable      the job queue cannot be reached: the sweeper works instead
    │   └── ProviderUnavailable   Flutterwave is down, slow, or has had enough of us
    └── PermanentError            trying again changes nothing
        ├── SignatureRejected     the webhook is not Flutterwave's, or not for this merchant
        ├── BodyRejected          the webhook's body is not JSON or a form
        ├── ProviderRejected      Flutterwave refuses our credentials or our request
        ├── PaymentNotFound       nobody knows that id or reference
        ├── CustomerNotFound      nobody knows that customer
        ├── CustomerErased        they were known, and were erased at somebody's wish
        ├── RequestRejected       a question we cannot make sense of
        ├── LinkRefused           a customer's link that is damaged, forged or out of date
        ├── RulingRefused         an operator's ruling that cannot be carried out on that event
        ├── ExpectationRefused    an expected payment that contradicts what was registered before
        ├── CursorPruned          a cursor from before the oldest change that is still kept
        └── SettingsInvalid       the process must not start; lists every problem at once

No message carries a secret or a payload.
"""

from __future__ import annotations

__all__ = [
    "BodyRejected",
    "CacheUnavailable",
    "CursorPruned",
    "CustomerErased",
    "CustomerNotFound",
    "ExpectationRefused",
    "LinkRefused",
    "PaymentNotFound",
    "PaystateError",
    "PermanentError",
    "ProviderRejected",
    "ProviderUnavailable",
    "QueueUnavailable",
    "RequestRejected",
    "RulingRefused",
    "SettingsInvalid",
    "SignatureRejected",
    "StoreUnavailable",
    "TransientError",
]


class PaystateError(Exception):
    """The root of the tree above."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason.replace("_", " "))
        self.reason = reason


class TransientError(PaystateError):
    """Something that may work later."""

    def __init__(
        self, reason: str, message: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(TransientError):
    """The database cannot be reached, or is no longer the primary."""


class CacheUnavailable(TransientError):
    """The cache cannot be reached."""


class QueueUnavailable(TransientError):
    """The job queue cannot be reached."""


class ProviderUnavailable(TransientError):
    """Flutterwave did not answer: `reason` is timeout, unreachable, rate_limited, http_5xx, ..."""


class PermanentError(PaystateError):
    """Something that trying again does not mend."""


class SignatureRejected(PermanentError):
    """A webhook without a valid signature."""


class BodyRejected(PermanentError):
    """A webhook whose body cannot be read."""


class ProviderRejected(PermanentError):
    """Flutterwave refused the request itself: credentials, or a request it cannot read."""


class PaymentNotFound(PermanentError):
    """No payment or reference of that name is known."""

    def __init__(
        self, reason: str, message: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class CustomerNotFound(PermanentError):
    """No customer of that id is known."""

    def __init__(
        self, reason: str, message: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class CustomerErased(PermanentError):
    """A customer was erased, and nothing newer has come of them."""


class RequestRejected(PermanentError):
    """A request of a caller that cannot be answered as asked."""


class LinkRefused(PermanentError):
    """A customer's link that opens nothing: `reason` is link_invalid or link_expired."""


class RulingRefused(PermanentError):
    """An operator's ruling on an event that is not there, or not in a state to be ruled on."""


class ExpectationRefused(PermanentError):
    """A registration of an expected payment that contradicts an earlier one."""


class CursorPruned(PermanentError):
    """Changes after this cursor have been removed: read the present, and go on from now."""


class SettingsInvalid(PermanentError):
    """Settings that must not start a process. `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__("settings_invalid", f"the settings cannot be used:\n{listed}")
        self.problems = problems
