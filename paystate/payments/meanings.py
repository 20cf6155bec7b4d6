"""Why an event ended as it did, in a sentence for the person who has to look."""

from __future__ import annotations

__all__ = ["meaning"]

_ENDINGS = {
    "open": "recorded; a worker takes it when it is due",
    "applied": "it moved the payment",
    "superseded": "late or a repetition: it says nothing that the payment has not reached",
    "contradicted": "Flutterwave went on saying otherwise for 15 minutes; its word was taken",
    "held": "quarantined until an operator releases or rejects it",
    "dead": "given up",
    "released": "an operator accepted what it says",
    "rejected": "an operator rejected it",
    "ignored": "genuine, and about no payment's status",
}

_REASONS = {
    "no_news": "the payment had come at least as far already",
    "already_successful": "a successful payment never regresses, and learns nothing from a webhook",
    "correction_unproven": "a success after a failure needs more proof than a v3 body",
    "amount_mismatch": "it names another amount than Flutterwave does",
    "currency_mismatch": "it names another currency than Flutterwave does",
    "reference_mismatch": "it names another reference than the payment's own",
    "payment_mismatch": "the refund belongs to another payment",
    "unverifiable": "Flutterwave cannot be asked about such an id, though about others",
    "not_found": "Flutterwave knows no such payment",
    "undecidable": "what it says cannot be read",
    "entity_missing": "its payment is not in the database",
    "refused_by_database": "the database refuses what it would change",
    "no_time_left": "its worker had no time left to ask; it is taken again at once",
    "underpaid": "less was paid than is expected for the reference",
    "overpaid": "more was paid than is expected for the reference",
    "wrong_currency": "it was paid in another currency than is expected for the reference",
    "amount_unknown": "an amount is expected for the reference, and nobody says what was paid",
    "late_registration": "a payment of the reference had been heard of before it was expected",
    "silence": "nothing has been heard of it for long",
    "rejected_by_operator": "the operator's rejection, carried out",
}

_FAMILIES = (
    ("provider_says_", "Flutterwave's own answer was: "),
    ("provider_", "Flutterwave could not be asked: "),
    ("flawed_", "a field that decides could not be read: "),
)


def meaning(state: str, reason: str | None) -> str:
    """Return a sentence for an inbox row's state and reason; unknown words are given back."""
    ending = _ENDINGS.get(state, state)
    if reason is None:
        return ending
    why = _REASONS.get(reason)
    if why is None:
        prefix, words = next((f for f in _FAMILIES if reason.startswith(f[0])), ("", ""))
        why = words + reason.removeprefix(prefix)
    return f"{ending}: {why}"
