"""Payment status that never answers with a pending that has been overtaken."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paystate.status import Status
from paystate.updates import Kind

if TYPE_CHECKING:
    from paystate.changes import Change
    from paystate.reader import Gap, PaymentReader, PaymentReaderSync, PaymentStatus

__all__ = [
    "Change",
    "Gap",
    "Kind",
    "PaymentReader",
    "PaymentReaderSync",
    "PaymentStatus",
    "Status",
    "__version__",
]

__version__ = "0.1.0"

# Loaded when first used: the pure modules and the processes do without the reader, and so without
# `redis`.
_LATER = {
    "Change": "paystate.changes",
    "Gap": "paystate.reader",
    "PaymentReader": "paystate.reader",
    "PaymentReaderSync": "paystate.reader",
    "PaymentStatus": "paystate.reader",
}


def __getattr__(name: str) -> Any:
    """Return one of the names above that are loaded when first used."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
