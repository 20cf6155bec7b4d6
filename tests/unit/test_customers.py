"""Customers, without servers: how long profiles are kept, and what is taken over of a person."""

from __future__ import annotations

import pytest

from paystate.flutterwave.persons import parse_v3_customer, parse_v4_customer
from paystate.keys import Entity, EntityKind, Keys
from paystate.store.ownership import without_person
from paystate.ttl import DEFAULT_TTL
from paystate.updates import Person
from tests.unit import bodies


@pytest.mark.parametrize(
    ("idle_s", "kept_s"),
    [(0, 1800), (3600, 1800), (3601, 7200), (86_400, 7200), (86_401, 21_600), (10**9, 21_600)],
)
def test_a_profile_is_kept_the_longer_the_longer_nobody_paid(idle_s: int, kept_s: int) -> None:
    assert DEFAULT_TTL.customer_seconds(idle_s) == kept_s


def test_keys_of_customers_are_those_of_the_plan() -> None:
    keys = Keys()
    charge = Entity("default", EntityKind.CHARGE, "7")
    assert keys.profile("default", "cus_1") == "flw:v1:customer:cus_1:profile"
    assert keys.history("default", "9", 2) == "flw:v1:customer:9:transactions:page:2"
    assert keys.profile("acme", "9") == "flw:v1:merchant:acme:customer:9:profile"
    assert keys.details(charge) == "flw:v1:tx:7:details"
    assert keys.verification(charge) == "flw:v1:tx:7:verification"
    with pytest.raises(ValueError, match="1 to 200"):
        keys.profile("default", "x" * 201)


def test_a_person_is_read_from_each_form() -> None:
    said = Person(
        "Adaeze Obi", "adaeze@example.com", "08030000001", "2026-03-04T10:20:29.000+00:00"
    )
    assert parse_v3_customer(bodies.v3_charge()["data"]) == ("640112005", said)
    kofi = Person(
        "Kofi Mensah", "kofi@example.com", "+233200000001", "2026-01-01T00:00:00.000+00:00"
    )
    assert parse_v4_customer(bodies.v4_charge()["data"]["customer"]) == ("cus_h2Wd90", kofi)
    assert parse_v3_customer({"customer": None}) is None
    assert parse_v4_customer({"id": "../up"}) is None
    assert parse_v4_customer({"id": "cus_1", "name": None}) == ("cus_1", Person())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "4929 3701 5501 2345"),
        ("name", "x" * 201),
        ("name", "a\u202eb"),
        ("name", ["Ada"]),
        ("email", "nobody"),
        ("email", "a@b@example.com"),
        ("email", "a b@example.com"),
        ("email", f"{'a' * 65}@example.com"),
        ("phone_number", "N/A"),
        ("phone_number", "4929370155012345"),
        ("phone_number", {"number": "1"}),
        ("created_at", "yesterday"),
    ],
)
def test_what_is_no_such_field_is_left_out(field: str, value: object) -> None:
    assert parse_v3_customer({"customer": {"id": 1, field: value}}) == ("1", Person())


def test_a_person_is_mute() -> None:
    person = Person("Adaeze Obi", "adaeze@example.com", "08030000001")
    assert repr(person) == str(person) == "Person()"


def test_what_is_left_of_a_payment_is_nobodys() -> None:
    assert without_person({"amount": "5", "customer_id": "1", "card": {"last_4": "0042"}}) == {
        "amount": "5"
    }
