"""The pure core: names, times, cursors, changes and updates, and the tree of errors."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from paystate import errors
from paystate.backoff import delay_s
from paystate.changes import Change, Cursor, iso_utc
from paystate.errors import PaystateError, PermanentError, SettingsInvalid, TransientError
from paystate.keys import (
    DEFAULT_MERCHANT,
    MAX_ID_LENGTH,
    Entity,
    EntityKind,
    Keys,
    hash_and_changes,
    segment,
)
from paystate.state import Attempt, EntityState
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL, TtlPolicy
from paystate.updates import (
    Card,
    Ignored,
    Kind,
    Overlay,
    OverlayStatus,
    OverlayType,
    PaymentUpdate,
)

# A slow machine proves nothing.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEYS = Keys()
CHARGE = Entity.payment(DEFAULT_MERCHANT, Kind.CHARGE, "123")
TRANSFER = Entity.payment(DEFAULT_MERCHANT, Kind.TRANSFER, "123")
REFERENCE = Entity.reference(DEFAULT_MERCHANT, "order-1")
OTHERS = Entity.payment("shop", Kind.CHARGE, "123")

# Whole characters only: a lone surrogate is not text, and is refused (see below).
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
hostile = st.text(st.sampled_from(":{}%/\0 ax1é\u202e\U0001f4b8"), min_size=1, max_size=6)
ids = st.one_of(text.filter(bool), hostile)
merchants = st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True) | st.sampled_from(
    ["default", "tx", "ref", "transfer", "merchant", "changes", "rate"]
)
entities = st.builds(Entity, merchants, st.sampled_from(EntityKind), ids)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (KEYS.hash(CHARGE), "flw:v1:tx:123:hash"),
        (KEYS.hash(TRANSFER), "flw:v1:transfer:123:hash"),
        (KEYS.hash(REFERENCE), "flw:v1:ref:order-1:hash"),
        (KEYS.hash(OTHERS), "flw:v1:merchant:shop:tx:123:hash"),
        (KEYS.changes(CHARGE), "flw:v1:tx:123:changes"),
        (KEYS.changes(OTHERS), "flw:v1:merchant:shop:tx:123:changes"),
        (KEYS.all_changes(DEFAULT_MERCHANT), "flw:v1:changes"),
        (KEYS.all_changes("shop"), "flw:v1:merchant:shop:changes"),
        (KEYS.rate("default", "2026112301"), "flw:v1:rate:default:2026112301"),
    ],
)
def test_names_in_redis_are_the_published_ones(name: str, expected: str) -> None:
    """Other services read these keys and channels: they are a contract, letter by letter."""
    assert name == expected


@given(entities)
def test_both_names_of_an_entity_are_those_that_it_has_alone(entity: Entity) -> None:
    """Made together they cost one, and they are a contract all the same."""
    assert hash_and_changes(KEYS, entity) == (KEYS.hash(entity), KEYS.changes(entity))


def test_a_merchants_names_differ_by_one_prefix() -> None:
    """For every merchant but the default one, `merchant:{m}:` comes before the entity."""
    for entity in (CHARGE, TRANSFER, REFERENCE):
        other = Entity("shop", entity.kind, entity.id)
        for name in (Keys.hash, Keys.changes, Keys.asked):
            assert name(KEYS, other) == name(KEYS, entity).replace("v1:", "v1:merchant:shop:", 1)


def names_of(entity: Entity) -> set[str]:
    """Return everything in Redis that is named after `entity`."""
    return {KEYS.hash(entity), KEYS.changes(entity), KEYS.asked(entity)}


@unhurried
@given(entities, entities)
@example(Entity("default", EntityKind.CHARGE, "1:hash"), Entity("default", EntityKind.CHARGE, "1"))
@example(Entity("default", EntityKind.CHARGE, "a b"), Entity("default", EntityKind.CHARGE, "a%20b"))
@example(Entity("tx", EntityKind.CHARGE, "1"), Entity("default", EntityKind.CHARGE, "tx:1"))
@example(Entity("a", EntityKind.REFERENCE, "b:c"), Entity("a:b", EntityKind.REFERENCE, "c"))
def test_two_identities_never_share_a_name(one: Entity, other: Entity) -> None:
    """A different merchant, kind or id gives a different key, channel and row."""
    assume(one != other)
    assert not names_of(one) & names_of(other)
    if ":" not in one.merchant + other.merchant:
        assert one.row_key != other.row_key


@unhurried
@given(entities)
def test_no_id_forges_a_name(entity: Entity) -> None:
    """Whatever the id holds, its key keeps the number of its segments and names no hash slot."""
    names = names_of(entity)
    segments = 5 if entity.merchant == DEFAULT_MERCHANT else 7
    for name in names:
        assert name.count(":") == segments - 1
        assert re.fullmatch(r"[A-Za-z0-9:._~%-]+", name)
    shared = {KEYS.all_changes(entity.merchant), KEYS.wake, KEYS.queue}
    assert not names & shared
    assert not names & {KEYS.rate(entity.merchant, "2026112301")}


@unhurried
@given(entities)
def test_the_row_key_goes_both_ways(entity: Entity) -> None:
    """The database's key says which entity it is, colons in the id included."""
    assert Entity.from_row_key(entity.row_key) == entity


@pytest.mark.parametrize("value", ["", "x" * (MAX_ID_LENGTH + 1), "\ud800", "a\udfffb"])
def test_what_cannot_be_an_id_is_refused(value: str) -> None:
    """Empty, too long, or not Unicode: a ValueError, wherever it would become part of a name."""
    with pytest.raises(ValueError, match=r".+"):
        segment(value)
    with pytest.raises(ValueError, match=r".+"):
        KEYS.hash(Entity.reference(DEFAULT_MERCHANT, value))
    with pytest.raises(ValueError, match=r".+"):
        KEYS.all_changes(value)


def test_the_longest_id_is_accepted() -> None:
    """The bound itself is an id."""
    assert segment("x" * MAX_ID_LENGTH) == "x" * MAX_ID_LENGTH


# --- states ---------------------------------------------------------------------------------------


def state(entity: Entity, status: Status, open_events: int = 0, held: int = 0) -> EntityState:
    """Return a row of `entity`."""
    return EntityState(entity, status, 1, open_events, held, None, 0)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("open_events", [0, 1])
@pytest.mark.parametrize("entity", [CHARGE, REFERENCE])
def test_only_what_no_event_can_change_is_cacheable(
    entity: Entity, open_events: int, held: int, status: Status
) -> None:
    """`successful` always is; anything else needs that no event is open, and none is held."""
    row = state(entity, status, open_events, held)
    ends = {Status.SUCCESSFUL}
    if not entity.is_reference:
        ends |= {Status.FAILED, Status.VOIDED}
    assert row.terminal is (status in ends)
    assert row.held is (held > 0 and status not in ends)
    assert row.cacheable is (status is Status.SUCCESSFUL or not (open_events or row.held))


@unhurried
@given(st.sampled_from([EntityKind.CHARGE, EntityKind.TRANSFER]), ids)
def test_a_deciding_attempt_goes_both_ways(kind: EntityKind, payment_id: str) -> None:
    """A reference's link names its attempt, colons in the id included."""
    attempt = Attempt(kind, payment_id)
    assert Attempt.parse(str(attempt)) == attempt
    assert Attempt.parse_short(attempt.short()) == attempt
    assert Attempt.parse_short(str(attempt)) == attempt


@pytest.mark.parametrize("link", [None, "", "charge", "reference:1", "nonsense:1"])
def test_nonsense_names_no_attempt(link: str | None) -> None:
    """A link that is none gives no payment id."""
    assert Attempt.parse(link) is None
    assert EntityState(REFERENCE, Status.PENDING, 1, 0, 0, link, 0).payment_id is None


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        (Status.SUCCESSFUL, 86_400),
        (Status.FAILED, 86_400),
        (Status.VOIDED, 86_400),
        (Status.PENDING, 300),
        (Status.PROCESSING, 60),
        (Status.UNKNOWN, 120),
    ],
)
def test_times_to_live_are_the_planned_ones(status: Status, seconds: int) -> None:
    """Each status is kept as long as the table says, and never shorter by the jitter."""
    assert DEFAULT_TTL.seconds(status) == seconds
    assert DEFAULT_TTL.milliseconds(status, 0) == seconds * 1000


@unhurried
@given(
    st.sampled_from(Status),
    st.integers(1, 10**6),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_jitter_only_adds_and_only_its_share(
    status: Status, seconds: int, jitter: float, draw: float
) -> None:
    """A spread time lies between the time and the time plus its share."""
    policy = TtlPolicy(seconds, seconds, seconds, seconds, jitter)
    spread = policy.milliseconds(status, draw)
    assert seconds * 1000 <= spread <= seconds * 1000 * (1 + jitter)


@unhurried
@given(st.integers(-5, 10**6), st.floats(0.001, 100), st.floats(0.001, 10_000), st.floats(0, 1))
def test_a_backoff_stays_within_its_bounds(
    attempt: int, first: float, most: float, draw: float
) -> None:
    """No wait is longer than `most`, none is shorter than half of what it would be undrawn."""
    full = min(most, first * 2.0 ** min(max(attempt - 1, 0), 30))
    wait = delay_s(attempt, first_s=first, most_s=most, draw=draw)
    assert full / 2 <= wait <= full <= most


def test_a_backoff_doubles_until_it_stops() -> None:
    """1, 2, 4, then `most` for good."""
    waits = [delay_s(n, first_s=1, most_s=6, draw=0) for n in (1, 2, 3, 4, 1000)]
    assert waits == [1, 2, 4, 6, 6]


# --- cursors and changes --------------------------------------------------------------------------

numbers = st.integers(0, 2**63 - 1)
cursors = st.builds(Cursor, numbers, numbers)


@unhurried
@given(cursors, cursors)
def test_a_cursor_goes_both_ways_and_keeps_its_order(one: Cursor, other: Cursor) -> None:
    """A cursor read from its text is the same, and sorts by transaction first, then by row."""
    assert Cursor.parse(str(one)) == one
    assert (one < other) is ((one.xid, one.id) < (other.xid, other.id))


@pytest.mark.parametrize(
    "junk",
    ["", ".", "1", "1.", ".1", "1.2.3", "-1.2", "1.-2", "+1.2", " 1.2", "1.2\n", "1_0.2", "a.b",
     "1e3.2", "١.٢", "1,2", "0x1.2", f"{'9' * 30}.{'9' * 30}"],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(junk: str) -> None:
    """Anything but two short plain decimal numbers is a ValueError."""
    with pytest.raises(ValueError, match="cursor"):
        Cursor.parse(junk)


@unhurried
@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_a_value_error(junk: str) -> None:
    """Parsing never fails in any other way."""
    try:
        Cursor.parse(junk)
    except ValueError:
        return
    assert re.fullmatch(r"[0-9]+\.[0-9]+", junk)


# From 2001 to 2223: a double holds the milliseconds of these well enough.
moments = st.integers(10**12, 8 * 10**12)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Return any change, of a payment or of a reference."""
    entity = draw(entities)
    ours = entity.id
    payment_id = draw(ids | st.none()) if entity.is_reference else ours
    tx_ref = ours if entity.is_reference else draw(ids | st.none())
    return Change(
        entity,
        payment_id,
        tx_ref,
        draw(st.sampled_from(Status)),
        draw(st.sampled_from(Status) | st.none()),
        draw(st.booleans()),
        draw(numbers),
        draw(numbers),
        draw(moments),
        draw(cursors),
    )


@unhurried
@given(changes())
def test_a_change_goes_through_json_unharmed(change: Change) -> None:
    """What a channel carries is what was committed, its cursor and its time included."""
    assert Change.from_json(json.loads(json.dumps(change.to_json()))) == change


@unhurried
@given(changes())
def test_a_newer_version_may_add_fields_to_a_change(change: Change) -> None:
    """A reader of today understands a change with a field it does not know."""
    assert Change.from_json({**change.to_json(), "risk": "low"}) == change


def test_a_change_has_exactly_the_published_fields() -> None:
    """The shape is a contract: these eleven fields, plain JSON, times in UTC with milliseconds."""
    change = Change(
        CHARGE, "123", "order-1", Status.SUCCESSFUL, Status.PROCESSING, True, 3, 2,
        1_700_000_000_123, Cursor(7, 9),
    )  # fmt: skip
    assert change.to_json() == {
        "payment_id": "123",
        "tx_ref": "order-1",
        "kind": "charge",
        "merchant": "default",
        "status": "successful",
        "previous_status": "processing",
        "terminal": True,
        "version": 3,
        "previous_version": 2,
        "changed_at": "2023-11-14T22:13:20.123Z",
        "cursor": "7.9",
    }


@pytest.mark.parametrize("field", ["kind", "status", "version", "changed_at", "cursor"])
def test_an_unsound_change_is_refused(field: str) -> None:
    """A missing or nonsensical field is a ValueError or a KeyError, never a change."""
    sound = Change(
        CHARGE, "123", None, Status.PENDING, None, False, 1, 0, 10**12, Cursor()
    ).to_json()
    with pytest.raises(ValueError, match=r".+"):
        Change.from_json({**sound, field: "nonsense"})
    del sound[field]
    with pytest.raises(KeyError):
        Change.from_json(sound)


@pytest.mark.parametrize("field", ["merchant", "payment_id", "tx_ref"])
@pytest.mark.parametrize("value", [{}, 5, ["a"], True])
def test_a_change_of_something_that_has_no_name_is_refused(field: str, value: Any) -> None:
    """Whoever hears it looks it up by its names, and a table of names takes texts alone."""
    for entity, others in ((CHARGE, ("123", "order-1")), (REFERENCE, ("123", "order-1"))):
        sound = Change(
            entity, *others, Status.PENDING, None, False, 1, 0, 10**12, Cursor()
        ).to_json()
        with pytest.raises(ValueError, match=r"text"):
            Change.from_json({**sound, field: value})


def test_times_are_iso_in_utc() -> None:
    """Milliseconds since the epoch become ISO 8601 with a Z."""
    assert iso_utc(0) == "1970-01-01T00:00:00.000Z"


# --- updates --------------------------------------------------------------------------------------

decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
maybe_text = text | st.none()
cards = st.builds(Card, *[maybe_text] * 4)
updates = st.builds(
    PaymentUpdate,
    kind=st.sampled_from(Kind),
    payment_id=ids,
    status=st.sampled_from(Status),
    provider_status=text,
    tx_ref=maybe_text,
    amount=decimals | st.none(),
    currency=maybe_text,
    charged_amount=decimals | st.none(),
    app_fee=decimals | st.none(),
    payment_type=maybe_text,
    flw_ref=maybe_text,
    processor_code=maybe_text,
    created_at=maybe_text,
    customer_id=maybe_text,
    card=cards | st.none(),
    flaws=st.lists(text, max_size=3).map(tuple),
)
overlays = st.builds(
    Overlay,
    kind=st.sampled_from(Kind),
    payment_id=ids,
    type=st.sampled_from(OverlayType),
    overlay_id=ids,
    status=st.sampled_from(OverlayStatus),
    provider_status=text,
    tx_ref=maybe_text,
    amount=decimals | st.none(),
    currency=maybe_text,
    flaws=st.lists(text, max_size=3).map(tuple),
)


def through_json(observed: PaymentUpdate | Overlay, **more: Any) -> PaymentUpdate | Overlay:
    """Return `observed` as the inbox gives it back; `more` are fields of a newer version."""
    stored = json.loads(json.dumps({**observed.to_json(), **more}))
    return type(observed).from_json(stored)


@unhurried
@given(updates | overlays)
@example(PaymentUpdate(Kind.CHARGE, "1", Status.PENDING, "", amount=Decimal("1E+3")))
@example(PaymentUpdate(Kind.CHARGE, "1", Status.PENDING, "", amount=Decimal("0.10")))
def test_an_observation_goes_through_json_unharmed(observed: PaymentUpdate | Overlay) -> None:
    """Every field comes back, and money to the last digit."""
    assert through_json(observed) == observed


@unhurried
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12))
def test_money_is_a_plain_decimal_string(amount: Decimal) -> None:
    """Money in JSON is digits with a point, never an exponent and never a number."""
    update = PaymentUpdate(Kind.CHARGE, "1", Status.PENDING, "pending", amount=amount)
    written = update.to_json()["amount"]
    assert re.fullmatch(r"-?\d+(\.\d+)?", written)
    assert Decimal(written) == amount


@unhurried
@given(updates | overlays)
def test_an_observation_tolerates_fields_of_a_newer_version(
    observed: PaymentUpdate | Overlay,
) -> None:
    """A worker that has not been upgraded yet reads what an upgraded web process wrote."""
    assert through_json(observed, risk="low", nested={"a": [1]}) == observed


def test_a_card_tolerates_fields_of_a_newer_version() -> None:
    """An unknown field of the card is left out like one of the payment."""
    update = PaymentUpdate(Kind.CHARGE, "1", Status.PENDING, "", card=Card(last_4="1381"))
    stored = update.to_json()
    stored["card"]["network"] = "x"
    assert PaymentUpdate.from_json(stored) == update


def test_what_is_not_known_is_not_written() -> None:
    """JSON has no nulls and no empty lists: a later observation can fill the gaps."""
    update = PaymentUpdate(Kind.CHARGE, "1", Status.PENDING, "pending")
    assert update.to_json() == {
        "kind": "charge",
        "payment_id": "1",
        "status": "pending",
        "provider_status": "pending",
    }


def test_what_is_sensitive_is_not_even_stored_by_type() -> None:
    """A virtual card's or an OTP's webhook leaves nothing behind; others leave their type."""
    assert not Ignored("sensitive").stored
    assert Ignored("not_a_payment").stored
    assert Ignored("malformed:id").stored


# --- errors ---------------------------------------------------------------------------------------


def tree(root: type[PaystateError]) -> list[type[PaystateError]]:
    """Return `root` and every class below it that the module itself defines."""
    below = [c for c in root.__subclasses__() if c.__module__ == errors.__name__]
    return [root, *(each for child in below for each in tree(child))]


def test_every_error_is_public() -> None:
    """`__all__` holds the whole tree and nothing else."""
    assert sorted(errors.__all__) == sorted(c.__name__ for c in tree(PaystateError))
    assert errors.__all__ == sorted(errors.__all__)


def test_the_drawn_tree_is_the_tree() -> None:
    """The docstring draws every class, once, at its depth."""
    assert errors.__doc__ is not None
    lines = re.findall(r"^ {4}([│├└─ ]*)([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    drawn = [(name, len(indent) // 4) for indent, name in lines]
    root = len(PaystateError.__mro__)
    depth = {cls.__name__: len(cls.__mro__) - root for cls in tree(PaystateError)}
    assert sorted(drawn) == sorted(depth.items())


LEAVES = [c for c in tree(PaystateError) if not c.__subclasses__()]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_has_a_reason_and_is_worth_trying_again_or_not(
    leaf: type[PaystateError],
) -> None:
    """Each error carries a reason for a metric label, and is transient or permanent, not both."""
    error = SettingsInvalid(["PORT is odd"]) if leaf is SettingsInvalid else leaf("some_reason")
    assert re.fullmatch(r"[a-z0-9_]+", error.reason)
    assert isinstance(error, TransientError) is not isinstance(error, PermanentError)
    assert str(error)


def test_an_error_without_a_message_says_its_reason() -> None:
    """The reason, in words, is the message of last resort."""
    assert str(errors.StoreUnavailable("database_unreachable")) == "database unreachable"


def test_a_transient_error_may_say_when_to_come_back() -> None:
    """`retry_after_s` travels with the error; nobody knowing is None."""
    assert errors.ProviderUnavailable("rate_limited", retry_after_s=2.5).retry_after_s == 2.5
    assert errors.CacheUnavailable("mark_failed").retry_after_s is None
