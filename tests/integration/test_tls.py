"""Passwords and TLS on the way to the cache, in each of its forms."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis as SyncRedis

from bench.topologies import Cluster, SentinelTopology
from paystate import PaymentReaderSync
from paystate.connections import REDIS_FAILURES, connect
from paystate.store import open_store

NAMED = ["ACL", "SETUSER", "app", "on", ">p/w#1", "~*", "&*", "+@all"]
WHO = "app:p%2Fw%231@"


async def answers(url: str) -> bool:
    """Say whether the cache at `url` takes a write."""
    client = connect(url, timeout_s=10)
    try:
        return bool(await client.set("flw:v1:probe", b"1", px=1000))
    except REDIS_FAILURES:
        return False
    finally:
        await client.aclose()


async def test_a_cluster_is_asked_with_user_and_password(cluster: Cluster) -> None:
    """On every one of its servers, however the password is spelled."""
    for node in cluster.nodes:
        node.ask(*NAMED)
    hosts = urlsplit(cluster.url).netloc
    assert await answers(f"redis+cluster://{WHO}{hosts}")
    assert not await answers(f"redis+cluster://app:wrong@{hosts}")


@pytest.fixture(scope="module")
def watched() -> SentinelTopology:
    """A primary with a user, watched by one sentinel that has a password of its own."""
    with SentinelTopology(replicas=0, sentinels=1) as service:
        service.servers[0].ask(*NAMED)
        service.sentinels[0].ask("ACL", "SETUSER", "default", "resetpass", ">s/w")
        yield service


@pytest.mark.parametrize(
    ("who", "query", "works"),
    [
        (WHO, "?sentinel_password=s%2Fw", True),
        (WHO, "", False),
        (WHO, "?sentinel_password=wrong", False),
        ("app:wrong@", "?sentinel_password=s%2Fw", False),
    ],
)
async def test_sentinels_and_servers_have_their_own_passwords(
    watched: SentinelTopology, who: str, query: str, works: bool
) -> None:
    url = f"redis+sentinel://{who}{watched.addresses[0]}/mymaster{query}"
    assert await answers(url) is works
    with PaymentReaderSync(url, timeout_s=10) as reader:  # makes its connections itself
        assert reader._redis is not None
        assert await asyncio.to_thread(_answers_too, reader._redis) is works


def _answers_too(client: SyncRedis) -> bool:
    try:
        return bool(client.ping())
    except REDIS_FAILURES:
        return False


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``localhost``, which is its own authority, with its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@asynccontextmanager
async def tls_before(url: str, certificate: Path) -> AsyncIterator[int]:
    """Speak TLS in front of a server; yield the port."""
    target = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(target.hostname, target.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, here), copy(there, writer), return_exceptions=True)
        here.close()
        writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_certificate_must_be_trusted_and_for_the_host_that_was_named(
    valkey_url: str, certificate: Path
) -> None:
    trust = f"ssl_ca_certs={certificate / 'cert.pem'}"
    async with tls_before(valkey_url, certificate) as port:
        assert await answers(f"rediss://localhost:{port}/0?{trust}")
        assert not await answers(f"rediss://localhost:{port}/0")
        assert not await answers(f"rediss://127.0.0.1:{port}/0?{trust}")
        assert await answers(f"rediss://127.0.0.1:{port}/0?{trust}&ssl_check_hostname=no")
        assert not await answers(f"redis://localhost:{port}/0")


async def test_a_database_takes_libpqs_words_for_tls(postgres_url: str) -> None:
    """The server here speaks none on its socket: it is asked for it, or not, as the word says."""
    async with open_store(f"{postgres_url}&sslmode=prefer", pool=1, timeout_s=10) as store:
        await store.ping()
