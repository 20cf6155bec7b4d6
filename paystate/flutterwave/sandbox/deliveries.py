"""One webhook as it goes over the wire, and the record of one try to deliver it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from paystate.flutterwave.sandbox.records import Form
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.updates import Kind

__all__ = ["Delivery", "Webhook"]

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Webhook:
    """The exact bytes of one webhook, and what it is about.

    `form` decides how it is signed and `content_type` says what `raw` is. `lies` names what is
    untrue in it. `payment_id` is empty where it is about no payment.
    """

    form: Form
    kind: Kind
    payment_id: str
    tx_ref: str
    type: str
    status: str
    raw: bytes = field(repr=False)
    family: str = ""
    content_type: str = _JSON
    lies: tuple[str, ...] = ()

    def headers(self, secret_hash: str) -> dict[str, str]:
        """Return the headers it is sent with; the signature is over the exact bytes (v4)."""
        if self.form is Form.V4:
            signature = {V4_HEADER: sign_v4(self.raw, secret_hash)}
        else:
            signature = {V3_HEADER: secret_hash}
        return {"Content-Type": self.content_type} | signature


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try to deliver a webhook, as ``GET /sandbox/deliveries`` lists it.

    `outcome` is acknowledged, refused (`code` says how), unreachable, dropped or overflow; `copy`
    is 2 for the second of a doubled webhook, `attempt` counts from 1 and `at` is epoch seconds.
    `number` counts all tries of this sandbox from 1; `faults` names what went wrong on purpose.
    """

    number: int
    at: float
    payment_id: str
    kind: str
    tx_ref: str
    api: str
    family: str
    type: str
    status: str
    copy: int
    attempt: int
    outcome: str
    code: int | None = None
    faults: tuple[str, ...] = ()
    form_encoded: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self) | {"faults": list(self.faults)}
