"""The files that tests leave behind, and what must be in none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.canaries import MARK, MARKED

__all__ = ["PATTERNS", "SECRETS", "secrets_in"]

# Fixed secrets and personal data of the tests' own bodies and processes, and the marks of the
# canaries.
SECRETS = (
    b"current-hash", b"operator-token", b"e2e-secret-hash", b"flw-t1nf", b"adaeze@example.com",
    b"kofi@example.com", b"bisi@example.com", b"FLWSECK_TEST-sandbox", b"sandbox-client-secret",
    MARK.encode(), MARKED.encode(),
)  # fmt: skip

# Databases, what a process has written to its log, and what a Valkey has appended to its file.
PATTERNS = ("*.db", "*.db-wal", "*.log", "*.aof")


def secrets_in(folder: Path) -> Iterator[str]:
    """Yield each file under `folder` that has a secret in it, with the secret."""
    for pattern in PATTERNS:
        for path in sorted(folder.rglob(pattern)):
            data = path.read_bytes()
            yield from (f"{path}: {secret.decode()}" for secret in SECRETS if secret in data)
