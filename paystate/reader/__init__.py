"""Payment statuses for other services, with nothing installed but `redis`.

A reader looks where an answer can be proven: its own memory while the news is live, the cache, and
the HTTP API if it was given one. Where nothing proves an answer it says so (`fresh` is False), and
where news was lost it says so too (`Gap`)::

    async with PaymentReader("redis://cache:6379/0", api_url="https://pay.internal",
                             api_token=token) as reader:
        answer = await reader.status(285959875)
        settled = await reader.wait_for(tx_ref="order-17", timeout=60)
        async for item in reader.changes():
            ...

Code without an event loop uses `PaymentReaderSync`.
"""

from paystate.reader.answers import PaymentDetails, PaymentStatus
from paystate.reader.errors import (
    ApiMissing,
    ApiRefused,
    ApiUnavailable,
    PaymentUnknown,
    ReaderError,
    ReaderUnavailable,
)
from paystate.reader.feed import ChangeFeed, Gap, GapReason
from paystate.reader.reader import PaymentReader
from paystate.reader.sync import PaymentReaderSync

__all__ = [
    "ApiMissing",
    "ApiRefused",
    "ApiUnavailable",
    "ChangeFeed",
    "Gap",
    "GapReason",
    "PaymentDetails",
    "PaymentReader",
    "PaymentReaderSync",
    "PaymentStatus",
    "PaymentUnknown",
    "ReaderError",
    "ReaderUnavailable",
]
