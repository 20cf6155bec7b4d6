"""The sums over a payment's refunds: exact, by currency, and what they are flagged for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystate.payments.refunds import refunds_of

PAID = {"amount": "1000", "currency": "NGN"}


def overlay(
    status: str, amount: str | None, currency: str | None = None, kind: str = "refund"
) -> dict[str, Any]:
    return {"type": kind, "id": "1", "status": status, "amount": amount, "currency": currency}


def test_without_overlays_nothing_has_gone_back() -> None:
    assert refunds_of({}, []) == {
        "refunded_amount": "0",
        "refund_pending_amount": "0",
        "refund_flags": [],
        "chargeback": None,
        "reversal": None,
    }


def test_only_a_final_refund_is_refunded_and_a_failed_one_is_nothing() -> None:
    found = refunds_of(
        PAID,
        [
            overlay("completed", "100"),
            overlay("completed", "0.1", "NGN"),
            overlay("initiated", "20"),
            overlay("pending", "3"),
            overlay("failed", "4000"),
        ],
    )
    assert (found["refunded_amount"], found["refund_pending_amount"]) == ("100.1", "23")
    assert found["refund_flags"] == []


@given(st.lists(st.decimals(0, 10**15 - 1, places=9), max_size=50))
def test_a_sum_is_exact(amounts: list[Decimal]) -> None:
    found = refunds_of({}, [overlay("completed", f"{amount:f}") for amount in amounts])
    billionths = sum(int(amount.scaleb(9)) for amount in amounts)
    whole, rest = divmod(billionths, 10**9)
    told_whole, _, told_rest = found["refunded_amount"].partition(".")
    assert (int(told_whole), int(told_rest or "0")) == (whole, rest)


@pytest.mark.parametrize(("last", "flags"), [("0.01", ["over_refunded"]), ("0", [])])
def test_more_than_was_paid_is_shown_and_flagged(last: str, flags: list[str]) -> None:
    found = refunds_of(PAID, [overlay("completed", "1000"), overlay("completed", last)])
    assert Decimal(found["refunded_amount"]) == 1000 + Decimal(last)
    assert found["refund_flags"] == flags


def test_what_is_only_initiated_does_not_make_it_too_much() -> None:
    found = refunds_of(PAID, [overlay("completed", "900"), overlay("initiated", "900")])
    assert found["refund_flags"] == []


def test_another_currency_or_no_amount_is_in_no_sum_and_flagged() -> None:
    found = refunds_of(
        PAID,
        [overlay("completed", "7", "USD"), overlay("pending", None), overlay("completed", "5")],
    )
    assert (found["refunded_amount"], found["refund_pending_amount"]) == ("5", "0")
    assert found["refund_flags"] == ["amount_unknown", "currency_differs"]


def test_a_failed_refund_flags_nothing() -> None:
    found = refunds_of(PAID, [overlay("failed", None), overlay("failed", "7", "USD")])
    assert found["refund_flags"] == []


def test_where_the_payments_currency_is_unknown_refunds_must_agree() -> None:
    one, other = overlay("completed", "7", "USD"), overlay("completed", "5", "NGN")
    assert refunds_of({}, [one, one])["refunded_amount"] == "14"
    found = refunds_of({}, [one, other])
    assert (found["refunded_amount"], found["refund_flags"]) == ("0", ["currency_differs"])


@pytest.mark.parametrize("kind", ["chargeback", "reversal"])
@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (["failed"], "failed"),
        (["failed", "initiated"], "initiated"),
        (["pending", "initiated"], "pending"),
        (["completed", "pending", "failed"], "completed"),
    ],
)
def test_of_several_the_one_that_matters_most_is_told(
    kind: str, statuses: list[str], told: str
) -> None:
    found = refunds_of(PAID, [overlay(status, "9000", kind=kind) for status in statuses])
    assert found[kind] == told
    assert (found["refunded_amount"], found["refund_flags"]) == ("0", [])
