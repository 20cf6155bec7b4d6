"""A link opens what it was made for, until it expires, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from paystate.errors import LinkRefused
from paystate.keys import MAX_ID_LENGTH, Entity, EntityKind
from paystate.links import Links

NOW = 1_800_000_000.0
ENTITY = Entity("default", EntityKind.CHARGE, "7001")


def links(*keys: str, now: float = NOW) -> Links:
    return Links(keys or ("first-key",), clock=lambda: now)


def refusal(token: str, reader: Links) -> str:
    with pytest.raises(LinkRefused) as caught:
        reader.read(token)
    assert len(token) < 40 or token not in str(caught.value)
    return caught.value.reason


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(EntityKind),
    own_id=st.text(min_size=1, max_size=MAX_ID_LENGTH),
    ttl_s=st.integers(1, 10**6),
)
def test_a_link_opens_what_it_was_made_for(kind: EntityKind, own_id: str, ttl_s: int) -> None:
    entity = Entity("acme", kind, own_id)
    token, made = links().make(entity, ttl_s)
    assert links().read(token) == made
    assert (made.entity, made.expires_s) == (entity, int(NOW) + ttl_s)


def test_a_link_ends_at_its_second() -> None:
    token, _ = links().make(ENTITY, 60)
    assert links(now=NOW + 59).read(token).entity == ENTITY
    assert refusal(token, links(now=NOW + 60)) == "link_expired"


def test_no_character_of_a_link_can_be_changed() -> None:
    """Nor cut off, nor added."""
    token, _ = links().make(ENTITY, 60)
    for place, was in enumerate(token):
        for put in {"A", "B", "-", ".", ""} - {was}:
            changed = token[:place] + put + token[place + 1 :]
            # The last character of base64 has bits that say nothing.
            if place < len(token) - 1 or not put:
                assert refusal(changed, links()) == "link_invalid", (place, put)
    assert refusal(token + "A", links()) == "link_invalid"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
def test_what_is_no_link_is_refused_for_what_it_is(text: str) -> None:
    assert refusal(text, links()) == "link_invalid"


def test_a_link_of_great_length_is_not_looked_at() -> None:
    assert refusal("A" * 1_000_000, links()) == "link_invalid"


def test_keys_are_exchanged_without_breaking_links() -> None:
    """The first key signs; all are believed; one that was taken away is not."""
    old, _ = links("old").make(ENTITY, 60)
    new, _ = links("new", "old").make(ENTITY, 60)
    assert links("new", "old").read(old).entity == ENTITY
    assert links("new").read(new).entity == ENTITY
    assert refusal(old, links("new")) == "link_invalid"
    assert refusal(new, links("old")) == "link_invalid"


def test_without_a_key_nothing_is_made_or_believed() -> None:
    with pytest.raises(LinkRefused) as caught:
        Links(()).make(ENTITY, 60)
    assert caught.value.reason == "link_key_missing"
    assert refusal(links().make(ENTITY, 60)[0], Links(())) == "link_invalid"
    assert "first-key" not in repr(links())


@pytest.mark.parametrize("content", [None, 7, [], ["a"], ["m", "charge", 7, 1], ["m", "x", "7", 9],
                                     ["m", "charge", "", 9e9], ["m", "charge", "7", True],
                                     {"a": 1, "b": 2, "c": 3, "d": 4}])  # fmt: skip
def test_something_else_that_was_signed_with_the_key_is_no_link(content: object) -> None:
    import hashlib

    signed = URLSafeSerializer(
        "first-key", salt="paystate.links.1",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    ).dumps(content)  # fmt: skip
    assert refusal(signed, links()) == "link_invalid"
    other, _ = URLSafeSerializer("first-key", salt="sessions").dumps([*ENTITY, 9**20]), None
    assert refusal(other, links()) == "link_invalid"
