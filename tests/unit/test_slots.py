"""What a cluster's replies say, in all the forms that servers give them."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from paystate.cluster.slots import Redirect, parse_redirect, parse_view

ASKED = ("cache.example", 7000)
OK, FAIL = b"cluster_state:ok\r\ncluster_slots_ok:3\r\n", b"cluster_state:fail\r\n"


def test_a_view_gives_every_slot_its_server_and_none_to_those_without() -> None:
    view = parse_view(OK, [
        [0, 1, [b"10.0.0.1", 7001, b"id"], [b"10.0.0.2", 7002, b"id"]],
        [16_383, 16_383, [b"fd00::3", 7003, b"id", []]],
    ], ASKED)  # fmt: skip
    assert view is not None
    assert view.healthy
    assert len(view.owners) == 16_384
    assert view.owners[:3] == [("10.0.0.1", 7001)] * 2 + [None]
    assert view.owners[-1] == ("fd00::3", 7003)
    assert view.primaries == {("10.0.0.1", 7001), ("fd00::3", 7003)}
    assert view.replicas == {("10.0.0.2", 7002)}


@pytest.mark.parametrize("host", [b"", None])
def test_a_server_without_a_name_of_its_own_is_the_one_that_was_asked(host: bytes | None) -> None:
    view = parse_view(OK, [[0, 16_383, [host, 7001, b"id"]]], ASKED)
    assert view is not None
    assert view.primaries == {("cache.example", 7001)}


def test_a_server_whose_name_nobody_knows_counts_for_none() -> None:
    view = parse_view(OK, [[0, 16_383, [b"?", 7001, b"id"], [b"?", 7002, b"id"]]], ASKED)
    assert view is not None
    assert (view.primaries, view.replicas) == (frozenset(), frozenset())


def test_a_view_of_no_slots_is_none_and_one_that_does_not_serve_is_not_healthy() -> None:
    """The first is of a server that has met nobody yet, the second perhaps of one cut off."""
    assert parse_view(OK, [], ASKED) is None
    view = parse_view(FAIL, [[0, 16_383, [b"10.0.0.1", 7001, b"id"]]], ASKED)
    assert view is not None
    assert not view.healthy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 10.0.0.1:6381", Redirect(True, 3999, ("10.0.0.1", 6381))),
        ("ASK 3999 10.0.0.1:6381", Redirect(False, 3999, ("10.0.0.1", 6381))),
        ("MOVED 1 :6381", Redirect(True, 1, ("cache.example", 6381))),
        ("MOVED 1 fd00::3:6381", Redirect(True, 1, ("fd00::3", 6381))),
        ("MOVED 1 a.cache.example:6381", Redirect(True, 1, ("a.cache.example", 6381))),
        ("MOVED 1 ?:6381", None),
        ("CLUSTERDOWN Hash slot not served", None),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
    ],
)
def test_a_redirect_says_where_to_and_for_how_long(text: str, expected: Redirect | None) -> None:
    assert parse_redirect(ResponseError(text), ASKED) == expected
