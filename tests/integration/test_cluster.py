"""The cache on a cluster: each key at its own server, and no server's fault anybody else's.

The cluster is real: three shards, of which the first has a replica. Tests kill, freeze, empty and
relieve its servers, and wait for nothing but the next answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from bench.topologies import Cluster, Node
from paystate.cache.answers import Hit, Miss
from paystate.cache.statuses import StatusCache
from paystate.cluster import ClusterClient, ClusterDegraded
from paystate.cluster.nodes import NodeDown
from paystate.connections import connect, connect_one
from paystate.errors import CacheUnavailable, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.flutterwave.shared_gate import RedisGate
from paystate.heartbeat import beat
from paystate.keys import Entity, EntityKind, Keys
from paystate.metrics import Metrics
from paystate.queue import open_queue
from paystate.reader import PaymentReader, PaymentReaderSync, ReaderUnavailable
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL
from tests.conftest import Opener
from tests.harness import open_world
from tests.integration.test_cache import change_to, row
from tests.integration.test_reader import Probe, wait
from tests.unit import bodies

KEYS = Keys()
SHARDS = range(3)
LONG_MS = 60_000
# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 30
# The servers have `cluster-node-timeout` 500 ms; a map that is never read again by the clock alone
# shows that it is read again for a reason.
NEVER_S = 3600.0

PE, F, S = Status.PENDING, Status.FAILED, Status.SUCCESSFUL


def slot_of(entity: Entity) -> int:
    return key_slot(KEYS.hash(entity).encode())


def on_shard(shard: int) -> Iterator[Entity]:
    """Yield payments whose keys belong to a shard."""
    for number in count(1):
        entity = Entity("default", EntityKind.CHARGE, str(number))
        if slot_of(entity) * 3 // 16_384 == shard:
            yield entity


def one_of_each() -> list[Entity]:
    """Return a payment of each shard, in their order."""
    return [entities[0] for entities in some_of_each(1).values()]


def many(each: int = 4) -> list[Entity]:
    """Return a few payments of each shard, shard after shard."""
    return [entity for entities in some_of_each(each).values() for entity in entities]


def some_of_each(each: int = 4) -> dict[int, list[Entity]]:
    """Return a few payments of each shard."""
    return {
        shard: [entity for entity, _ in zip(on_shard(shard), range(each), strict=False)]
        for shard in SHARDS
    }


@asynccontextmanager
async def client_of(
    cluster: Cluster, *, timeout_s: float = 2, seeds: list[tuple[str, int]] | None = None
) -> AsyncIterator[ClusterClient]:
    """Yield a new client, which reads its map again only when it has a reason to."""

    def make(host: str, port: int) -> Any:
        return connect_one(f"redis://{host}:{port}", timeout_s=timeout_s)

    first = [("127.0.0.1", node.port) for node in cluster.nodes[:1]]
    client = ClusterClient(seeds or first, make, patience_s=timeout_s, reread_s=NEVER_S)
    try:
        yield client
    finally:
        await client.aclose()


def cache_on(client: ClusterClient, lease_ms: int = LONG_MS) -> StatusCache:
    return StatusCache(client, lease_ms=lease_ms, ttl=DEFAULT_TTL, metrics=Metrics())


async def read(cache: StatusCache, entities: list[Entity]) -> list[Hit | Miss]:
    """Read in one batch."""
    return await asyncio.gather(*map(cache.read, entities))


async def put(cache: StatusCache, entities: list[Entity], version: int = 1) -> None:
    states = [row(S, version, entity=entity) for entity in entities]
    await cache.put(states, [change_to(state) for state in states])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Try until it is so."""
    async with asyncio.timeout(HANGS_S):
        while not await condition():
            pass


async def until_served(cache: StatusCache, entities: list[Entity]) -> None:
    """Read until every entity is found."""

    async def all_found() -> bool:
        return all(isinstance(answer, Hit) for answer in await read(cache, entities))

    await until(all_found)


async def until_reachable(cache: StatusCache, entities: list[Entity]) -> None:
    """Read until every server could be asked."""

    async def all_asked() -> bool:
        answers = await read(cache, entities)
        return not any(isinstance(answer, Miss) and answer.unreachable for answer in answers)

    await until(all_asked)


async def blocking(work: Callable[..., Any], *args: Any) -> Any:
    """Do what takes the topology a while, off the event loop."""
    return await asyncio.to_thread(work, *args)


# --- while all is well ----------------------------------------------------------------------------


async def test_one_batch_reads_fills_marks_and_puts_on_every_shard(cluster: Cluster) -> None:
    """What the cache does on one server it does on three, scripts and leases included."""
    async with client_of(cluster) as client:
        cache = cache_on(client)
        entities = many()
        misses = await read(cache, entities)
        for entity, answer in zip(entities, misses, strict=True):
            assert isinstance(answer, Miss)
            assert not answer.unreachable
            assert await cache.fill(row(F, 3, entity=entity), answer.take_token()) == "stored"
        assert [a.version for a in await read(cache, entities) if isinstance(a, Hit)] == [3] * 12
        await cache.mark([row(PE, 4, entity=entity) for entity in entities])
        assert all(isinstance(answer, Miss) for answer in await read(cache, entities))
        await put(cache, entities, 5)
        assert [a.version for a in await read(cache, entities) if isinstance(a, Hit)] == [5] * 12
        assert all(cluster.primary(shard).ask("DBSIZE") == 4 for shard in SHARDS)
        assert await client.ping()


async def test_what_is_no_entry_of_ours_is_deleted_at_its_own_server(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        cache = cache_on(client)
        entities = one_of_each()
        for entity in entities:
            await client.set(KEYS.hash(entity), "not a hash")
        await put(cache, entities)
        assert all(isinstance(answer, Hit) for answer in await read(cache, entities))
        for entity in entities:
            await client.set(KEYS.hash(entity), "not a hash")
        assert await read(cache, entities) == [Miss()] * 3
        assert [await client.get(KEYS.hash(entity)) for entity in entities] == [None] * 3


async def test_a_scan_goes_through_every_server(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        entities = many(20)
        await put(cache_on(client), entities)
        found: list[bytes] = []
        cursor, keys = await client.scan(0, match="flw:*:hash", count=5)
        found += keys
        while cursor:
            cursor, keys = await client.scan(cursor, match="flw:*:hash", count=5)
            found += keys
        assert {key.decode() for key in found} == {KEYS.hash(entity) for entity in entities}


async def test_the_provider_gate_is_one_for_all_processes_on_a_cluster(cluster: Cluster) -> None:
    """The hour and the cool-off have keys of different slots: each script takes one."""
    async with client_of(cluster) as client, client_of(cluster) as other:
        gate = RedisGate(client, KEYS, "default", hourly_budget=2)
        await gate.enter(Purpose.CONFIRM)
        await RedisGate(other, KEYS, "default", hourly_budget=2).enter(Purpose.CONFIRM)
        with pytest.raises(ProviderUnavailable, match="budget spent"):
            await gate.enter(Purpose.CONFIRM)
        await gate.cool_off(30)
        with pytest.raises(ProviderUnavailable, match="cooling off"):
            await RedisGate(other, KEYS, "default", hourly_budget=9).enter(Purpose.CONFIRM)
        assert not gate.degraded


async def test_the_queue_refuses_a_cluster() -> None:
    with pytest.raises(ValueError, match="cluster"):
        async with open_queue("redis+cluster://127.0.0.1:1", KEYS, timeout_s=1):
            pass


# --- slots on the move ----------------------------------------------------------------------------


async def test_a_slot_that_moves_is_followed_key_by_key_and_then_for_good(
    cluster: Cluster,
) -> None:
    """ASK sends one call elsewhere, to where its script is not known yet; MOVED all of them."""
    async with client_of(cluster) as client:
        cache = cache_on(client)
        entity = next(on_shard(0))
        await put(cache, [entity])
        slot, target = slot_of(entity), cluster.primary(1)
        home = await blocking(cluster.begin_move, slot, target)
        try:
            await blocking(cluster.move_keys, home, target, KEYS.hash(entity))
            assert isinstance(await cache.read(entity), Hit)
            target.ask("SCRIPT", "FLUSH")
            await put(cache, [entity], 2)
            assert _owner(client, slot) == home.port
            await blocking(cluster.end_move, slot, home, target)
            answer = await cache.read(entity)
            assert isinstance(answer, Hit)
            assert answer.version == 2
            assert _owner(client, slot) == target.port
        finally:
            await blocking(cluster.undo_move, slot, home, target)


def _owner(client: ClusterClient, slot: int) -> int:
    node = client._topology.owner(slot)
    assert node is not None
    return node.address[1]


# --- a server that goes away ----------------------------------------------------------------------


async def test_a_dead_primary_makes_misses_of_its_own_keys_and_of_no_others(
    cluster: Cluster,
) -> None:
    """In one and the same batch; its keys are back with it, for the same client."""
    async with client_of(cluster) as client:
        cache = cache_on(client)
        entities = some_of_each()
        healthy, dead = entities[0] + entities[1], entities[2]
        await put(cache, healthy + dead)
        await blocking(cluster.kill_primary, 2)
        for _ in range(20):
            answers = await read(cache, healthy + dead)
            assert all(isinstance(answer, Hit) for answer in answers[:8])
            assert answers[8:] == [Miss(unreachable=True)] * 4
            await cache.mark([row(S, 1, entity=entity) for entity in healthy])
            with pytest.raises(CacheUnavailable):
                await cache.mark([row(S, 1, entity=entity) for entity in healthy + dead])
        assert await cache.fill(row(S, 1, entity=dead[0]), None) == "unreachable"
        with pytest.raises(ClusterDegraded):
            await client.ping()
        await blocking(cluster.restart_all)
        await until_reachable(cache, dead)  # empty: nothing of it was kept
        await put(cache, dead, 2)
        assert all(isinstance(answer, Hit) for answer in await read(cache, healthy + dead))


async def test_a_frozen_server_is_waited_for_once_and_then_not_at_all(cluster: Cluster) -> None:
    """Nothing is sent to it until it has answered a PING, so it cannot hold up whole batches."""
    async with client_of(cluster, timeout_s=2) as client:
        frozen = cluster.primary(2)
        commands = [("GET", KEYS.hash(next(on_shard(shard)))) for shard in SHARDS]
        assert await client.exchange(commands) == [None] * 3
        frozen.freeze()
        try:
            *well, ill = await client.exchange(commands)
            assert well == [None] * 2
            assert type(ill).__name__ == "TimeoutError"
            for _ in range(50):
                *well, ill = await client.exchange(commands)
                assert well == [None] * 2
                assert isinstance(ill, NodeDown)
        finally:
            frozen.thaw()

        async def back() -> bool:
            return await client.exchange(commands) == [None] * 3

        await until(back)


async def test_nobody_waits_for_a_first_map_longer_than_for_any_answer(cluster: Cluster) -> None:
    """All servers hang, and asking them one by one goes on after the caller has been told."""
    seeds = [("127.0.0.1", node.port) for node in cluster.nodes]
    async with client_of(cluster, timeout_s=0.2, seeds=seeds) as client:
        for node in cluster.nodes:
            node.freeze()
        try:
            with pytest.raises(RedisConnectionError, match="no server"):
                await client.get("anything")
            assert len(client._topology._nodes) < len(seeds)
        finally:
            for node in cluster.nodes:
                node.thaw()

        async def known() -> bool:
            return isinstance((await client.exchange([("GET", "anything")]))[0], bytes | None)

        await until(known)


async def test_all_servers_may_go_and_come_back(cluster: Cluster) -> None:
    """The same client works again, with nothing restarted but the servers."""
    async with client_of(cluster) as client:
        cache = cache_on(client)
        entities = many()
        await put(cache, entities)
        await blocking(cluster.kill_all)
        for _ in range(3):
            assert await read(cache, entities) == [Miss(unreachable=True)] * 12
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await blocking(cluster.restart_all)
        await until_reachable(cache, entities)
        await put(cache, entities, 2)
        assert all(isinstance(answer, Hit) for answer in await read(cache, entities))


async def test_a_promoted_replica_takes_over_and_honours_no_lease_of_before(
    cluster: Cluster,
) -> None:
    """The map is read anew because the old primary is gone; nobody has to be told."""
    async with client_of(cluster) as client:
        cache = cache_on(client)
        final, leased = some_of_each(2)[0]
        await put(cache, [final])
        answer = await cache.read(leased)
        assert isinstance(answer, Miss)
        assert await cache.fill(row(F, 1, entity=leased), answer.take_token()) == "stored"
        assert isinstance(await cache.read(leased), Hit)
        old = cluster.primary(0)
        assert old.ask("WAIT", 1, 10_000) == 1
        old.kill()
        await until_served(cache, [final])
        assert _owner(client, slot_of(final)) != old.port
        again = await cache.read(leased)
        assert isinstance(again, Miss)
        assert not again.unreachable
        assert await cache.fill(row(F, 1, entity=leased), again.take_token()) == "stored"


class Relay:
    """A name that leads to whichever server it is told to, as a load balancer's does."""

    def __init__(self, to: Node) -> None:
        self.to = to
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> tuple[str, int]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, down = await asyncio.open_connection("127.0.0.1", self.to.port)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, down), (up, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
        except OSError:
            pass
        finally:
            sink.close()


async def test_when_every_known_server_is_gone_the_configured_name_leads_to_new_ones(
    cluster: Cluster,
) -> None:
    """As where servers get new addresses each time they start."""
    before = Cluster(primaries=1)
    try:
        await blocking(before.start)
        relay = Relay(before.nodes[0])
        async with (
            relay as name,
            client_of(before, seeds=[name]) as client,
            client_of(before, seeds=[name]) as listener,
        ):
            cache = cache_on(client)
            entities = one_of_each()
            await put(cache, entities)
            await listener.ping()
            await blocking(before.kill_all)
            relay.to = cluster.nodes[1]
            assert all(isinstance(answer, Miss) for answer in await read(cache, entities))
            await until_reachable(cache, entities)
            await put(cache, entities)
            assert all(isinstance(answer, Hit) for answer in await read(cache, entities))

            async def heard() -> bool:
                try:
                    async with listener.pubsub() as pubsub:
                        await pubsub.subscribe("news")
                        return (await pubsub.get_message(timeout=HANGS_S)) is not None
                except (RedisConnectionError, OSError):
                    return False

            await until(heard)
    finally:
        await blocking(before.stop)


# --- news and readers -----------------------------------------------------------------------------


def _listened_to(cluster: Cluster) -> Node:
    """Return the server that somebody subscribes at."""
    (node,) = [
        node
        for node in cluster.nodes
        if node.running and "sub=1" in node.ask("CLIENT", "LIST", "TYPE", "pubsub")
    ]
    return node


async def test_a_reader_hears_every_shard_and_moves_on_when_its_server_dies(
    cluster: Cluster,
) -> None:
    """With nothing but the URL of the cluster, and no API behind it."""
    async with (
        client_of(cluster) as client,
        PaymentReader(cluster.url, timeout_s=2, silence_s=60) as reader,
    ):
        probe = Probe(reader)
        cache = cache_on(client)
        entities = one_of_each()
        await wait(probe.on)
        await put(cache, entities)
        await probe.heard_all(3)
        answers = [await reader.status(entity.id) for entity in entities]
        assert [(a.status, a.fresh, a.source) for a in answers] == [(S, True, "cache")] * 3
        probe.on.clear()
        listened = _listened_to(cluster)
        listened.kill()
        await wait(probe.off)
        await wait(probe.on)
        assert _listened_to(cluster) is not listened
        await until_reachable(cache, [entities[0]])  # the first shard has a replica
        healthy = [entity for entity in entities if await _reachable(cache, entity)]
        assert len(healthy) >= 2
        await put(cache, healthy, 2)
        await probe.heard_all(len(healthy))


async def _reachable(cache: StatusCache, entity: Entity) -> bool:
    answer = await cache.read(entity)
    return isinstance(answer, Hit) or not answer.unreachable


# --- without the third shard ----------------------------------------------------------------------


async def test_the_heartbeat_goes_on_without_the_server_that_holds_its_key(
    crippled: Cluster,
) -> None:
    """Else one dead shard would make every listener believe that it hears nothing."""
    assert key_slot(KEYS.beating.encode()) * 3 // 16_384 == 2
    async with client_of(crippled) as client:
        with pytest.raises((RedisConnectionError, OSError)):
            await client.get(KEYS.beating)
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(KEYS.all_changes("default"))
            assert (await pubsub.get_message(timeout=HANGS_S))["type"] == "subscribe"
            await beat(client, KEYS, ["default"])
            heard: Any = {"data": b""}
            while b"heartbeat" not in heard["data"]:  # news of the test before may still come in
                heard = await pubsub.get_message(timeout=HANGS_S)
                assert heard is not None


async def test_what_is_marked_on_healthy_shards_is_sure_though_the_rest_of_the_batch_is_not(
    crippled: Cluster,
) -> None:
    """Else everybody who shares a batch with the dead shard would wait for leases to run out."""
    some = [next(on_shard(shard)) for shard in SHARDS]
    async with client_of(crippled) as client:
        marked = await cache_on(client).mark_each([row(PE, 1, entity=e) for e in some])
    assert dict(zip(SHARDS, marked, strict=True)) == {0: True, 1: True, 2: False}


async def test_a_reader_serves_healthy_shards_and_says_of_the_others_that_it_is_blind(
    crippled: Cluster,
) -> None:
    """Also without an event loop."""
    well, ill = next(on_shard(1)), next(on_shard(2))
    async with client_of(crippled) as client, PaymentReader(crippled.url, timeout_s=2) as reader:
        await put(cache_on(client), [well])
        answers = await asyncio.gather(
            reader.status(well.id), reader.status(ill.id), return_exceptions=True
        )
        assert (answers[0].status, type(answers[1])) == (S, ReaderUnavailable)
        with PaymentReaderSync(crippled.url, timeout_s=2, lease_ms=1000) as plain:
            unknown = list(zip(range(3), on_shard(1), strict=False))[2][1]
            found = await blocking(plain.statuses, [well.id, unknown.id])
            assert [answer.fresh for answer in found] == [True, False]
            with pytest.raises(ReaderUnavailable):
                await blocking(plain.status, ill.id)


async def test_webhooks_settle_and_lookups_are_answered_without_one_shard(
    open_process: Opener, crippled: Cluster
) -> None:
    """In strict mode by default; what its server cannot answer, the database does."""
    queue = open_process.cache
    async with open_world(open_process, CACHE_URL=crippled.url, QUEUE_URL=queue) as world:
        assert world.resources.cache.lease_ms == 0
        feed = asyncio.create_task(world.resources.feed.run())
        await world.resources.feed.catch_up()
        await wait(world.resources.feed.listening)
        numbers = [entity.id for entity in one_of_each()]
        try:
            with world.resources.feed.subscribe(merchant="default") as subscription:
                for number in numbers:
                    body = bodies.v3_charge(id=int(number), tx_ref=f"order-{number}")
                    assert (await world.v3(body)).status == 200
                    assert (await world.status(number))["status"] == "processing"
                assert await world.settle() == 3
                told: set[str | None] = set()
                while not told >= set(numbers[:2]):  # the third's news is in the change log
                    change = await subscription.next(HANGS_S)
                    assert change is not None
                    told.add(change.payment_id)
        finally:
            feed.cancel()
            await asyncio.wait([feed], timeout=5)
        answers = [await world.status(number) for number in numbers]
        assert [(a["status"], a["fresh"]) for a in answers] == [("successful", True)] * 3
        assert [a["source"] for a in answers] == ["cache", "cache", "database"]
        assert (await world.get("/readyz")).body["cache"] == "degraded"


async def test_connect_gives_a_cluster_its_client_and_any_other_url_redis_pys_own() -> None:
    """Callers see one interface."""
    client = connect("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout_s=1)
    assert isinstance(client, ClusterClient)
    with pytest.raises(RedisConnectionError):
        await client.get("nobody is there")
    with pytest.raises(ValueError, match="transaction"):
        client.pipeline(transaction=True)
    await client.aclose()
