"""Batches: a caller joins one that has not been sent, and never disturbs, or waits for, another.

Each test holds `send` in its hand (`Sender`): a batch is answered when the test says so.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

from paystate.batch import Batcher, Coalescer


async def turns(count: int = 5) -> None:
    """Let everything that can run, run: a fixed number of turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class Sender:
    """A `send` (or `load`) whose batches wait until the test lets them go."""

    def __init__(self, *, held: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.errors: dict[int, BaseException] = {}
        self.refused: dict[int, BaseException] = {}
        self.arrived = asyncio.Semaphore(0)
        self.go = asyncio.Semaphore(0 if held else 1_000_000)

    async def _enter(self, items: Sequence[int]) -> None:
        number = len(self.batches)
        self.batches.append(list(items))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.arrived.release()
        try:
            await self.go.acquire()
        finally:
            self.under_way -= 1
        if number in self.errors:
            raise self.errors[number]

    async def send(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        """Answer each item with its tenfold, or with the exception the test has set for it."""
        await self._enter(items)
        return [self.refused.get(item, item * 10) for item in items]

    async def load(self, keys: Sequence[int]) -> dict[int, int]:
        """Answer each even key with its tenfold and leave the odd ones out."""
        await self._enter(keys)
        return {key: key * 10 for key in keys if key % 2 == 0}


async def test_callers_of_one_moment_share_a_batch() -> None:
    """Everything submitted in one turn of the loop leaves together and in order."""
    sender = Sender(held=False)
    batcher = Batcher(sender.send, most=100)
    assert await asyncio.gather(*(batcher(n) for n in (3, 1, 2))) == [30, 10, 20]
    assert sender.batches == [[3, 1, 2]]


async def test_a_caller_never_joins_a_batch_that_has_been_sent() -> None:
    """Whoever comes while a batch is in flight belongs to the next one."""
    sender = Sender()
    batcher = Batcher(sender.send, most=100)
    early = batcher.submit(1)
    await sender.arrived.acquire()
    late = [batcher.submit(n) for n in (2, 3)]
    await turns()
    assert sender.batches == [[1]]
    sender.go.release()
    assert await early == 10
    await sender.arrived.acquire()
    assert sender.batches == [[1], [2, 3]]
    assert not any(future.done() for future in late)
    sender.go.release()
    assert await asyncio.gather(*late) == [20, 30]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
async def test_no_more_batches_are_under_way_than_allowed(in_flight: int) -> None:
    """However many wait, `in_flight` batches are under way, never more and never idle."""
    sender = Sender()
    batcher = Batcher(sender.send, most=2, in_flight=in_flight)
    futures = [batcher.submit(n) for n in range(20)]
    for _ in range(in_flight):
        await sender.arrived.acquire()
    await turns()
    assert len(sender.batches) == in_flight
    for _ in range(10):
        sender.go.release()
    assert await asyncio.gather(*futures) == [n * 10 for n in range(20)]
    assert sender.most_under_way == in_flight


async def test_a_batch_holds_at_most_so_many_and_keeps_the_order() -> None:
    """A crowd is cut into batches of `most`, first come first sent."""
    sender = Sender(held=False)
    batcher = Batcher(sender.send, most=4)
    await asyncio.gather(*(batcher(n) for n in range(10)))
    assert sender.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_an_error_reaches_its_batch_and_no_other() -> None:
    """A `send` that raises fails the items it was given; the next batch goes out as ever."""
    sender = Sender(held=False)
    sender.errors[0] = OSError("gone")
    batcher = Batcher(sender.send, most=2)
    results = await asyncio.gather(*(batcher(n) for n in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, int, int]
    assert results[2:] == [20, 30]


async def test_one_bad_item_harms_no_other() -> None:
    """An exception in the place of one result is raised to that caller alone."""
    sender = Sender(held=False)
    sender.refused[2] = ValueError("that one")
    batcher = Batcher(sender.send, most=10)
    results = await asyncio.gather(*(batcher(n) for n in (1, 2, 3)), return_exceptions=True)
    assert results[0] == 10
    assert isinstance(results[1], ValueError)
    assert results[2] == 30


async def test_a_send_that_loses_count_fails_its_batch() -> None:
    """Too few results are an error for whoever is left without one, never a wait without end."""

    async def short(items: Sequence[int]) -> Sequence[int]:
        return [0] * (len(items) - 1)

    batcher = Batcher(short, most=10)
    results = await asyncio.gather(*(batcher(n) for n in (1, 2)), return_exceptions=True)
    assert results[0] == 0
    assert isinstance(results[1], ValueError)


async def test_a_cancelled_caller_that_still_waits_is_not_sent() -> None:
    """An item whose caller has gone before the batch left is left out of it."""
    sender = Sender()
    batcher = Batcher(sender.send, most=10)
    first = batcher.submit(1)
    await sender.arrived.acquire()
    gone, stays = batcher.submit(2), batcher.submit(3)
    gone.cancel()
    sender.go.release()
    sender.go.release()
    assert await first == 10
    assert await stays == 30
    assert sender.batches == [[1], [3]]


async def test_a_caller_cancelled_in_flight_does_not_disturb_the_others() -> None:
    """The batch goes on, and everyone else in it gets the result."""
    sender = Sender()
    batcher = Batcher(sender.send, most=10)
    tasks = [asyncio.ensure_future(batcher(n)) for n in (1, 2, 3)]
    await sender.arrived.acquire()
    tasks[1].cancel()
    await turns()
    sender.go.release()
    assert await tasks[0] == 10
    assert await tasks[2] == 30
    assert tasks[1].cancelled()


class Unwilling:
    """Takes what it is given, and fails over it."""

    def __init__(self) -> None:
        self.given: list[int | BaseException] = []

    def done(self) -> bool:
        return False

    def set_result(self, result: int) -> None:
        self.given.append(result)
        raise KeyError("a fault of the receiver's")

    def set_exception(self, exception: BaseException) -> None:
        self.given.append(exception)
        raise KeyError("a fault of the receiver's")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_receiver_that_fails_takes_nothing_from_the_others(*, fails: bool) -> None:
    """What it was given stands, once; its fault goes where those of callbacks go."""
    sender, receiver = Sender(held=False), Unwilling()
    refusal = OSError("away")
    if fails:
        sender.errors[0] = refusal
    faults: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(context["exception"])
    )
    batcher = Batcher(sender.send, most=10)
    batcher.put(1, receiver)
    other = batcher.submit(2)
    if fails:
        with pytest.raises(OSError, match="away"):
            await other
    else:
        assert await other == 20
    assert receiver.given == [refusal if fails else 10]
    assert [type(fault) for fault in faults] == [KeyError]


async def test_a_batch_of_nobody_is_not_sent() -> None:
    """If every caller has gone, nothing leaves, and whoever comes next is served."""
    sender = Sender(held=False)
    batcher = Batcher(sender.send, most=1)
    for future in [batcher.submit(1), batcher.submit(2)]:
        future.cancel()
    await turns()
    assert sender.batches == []
    assert await batcher(3) == 30


async def test_a_cancelled_sender_cancels_its_callers_and_frees_its_place() -> None:
    """Cancelling the task that sends reaches everyone in its batch, and the next batch goes out."""
    sender = Sender()
    batcher = Batcher(sender.send, most=10)
    lost = [batcher.submit(n) for n in (1, 2)]
    await sender.arrived.acquire()
    after = batcher.submit(3)
    (task,) = batcher._tasks
    task.cancel()
    for future in lost:
        with pytest.raises(asyncio.CancelledError):
            await future
    assert task.cancelled()
    sender.go.release()
    assert await after == 30


async def test_drain_waits_for_everything_under_way() -> None:
    """After `drain` every batch has been answered, those that were waiting included."""
    sender = Sender()
    batcher = Batcher(sender.send, most=1)
    futures = [batcher.submit(n) for n in (1, 2)]
    await sender.arrived.acquire()
    drained = asyncio.ensure_future(batcher.drain())
    await turns()
    assert not drained.done()
    sender.go.release()
    await sender.arrived.acquire()
    await turns()
    assert not drained.done()
    sender.go.release()
    await drained
    assert [future.result() for future in futures] == [10, 20]


async def test_drain_of_nothing_ends_at_once() -> None:
    """A batcher at rest is drained."""
    await Batcher(Sender().send, most=1).drain()


async def test_callers_of_one_key_share_one_place() -> None:
    """Ten callers of one key and one of another are a read of two keys."""
    sender = Sender(held=False)
    reads = Coalescer(sender.load, most=100)
    answers = await asyncio.gather(*(reads(2) for _ in range(10)), reads(4))
    assert answers == [20] * 10 + [40]
    assert sender.batches == [[2, 4]]


async def test_a_read_in_flight_is_never_joined_even_for_the_same_key() -> None:
    """Who asks while a read is under way gets what a later read finds: the earlier may be old."""
    sender = Sender()
    reads = Coalescer(sender.load, most=100)
    early = asyncio.ensure_future(reads(2))
    await sender.arrived.acquire()
    late = [asyncio.ensure_future(reads(2)) for _ in range(3)]
    await turns()
    assert sender.batches == [[2]]
    sender.go.release()
    assert await early == 20
    await sender.arrived.acquire()
    assert sender.batches == [[2], [2]]
    assert not any(task.done() for task in late)
    sender.go.release()
    assert await asyncio.gather(*late) == [20, 20, 20]


async def test_a_key_that_was_not_found_is_answered_with_none() -> None:
    """What `load` leaves out is None, for its callers alone."""
    reads = Coalescer(Sender(held=False).load, most=100)
    assert list(await asyncio.gather(reads(1), reads(2))) == [None, 20]


async def test_a_cancelled_reader_does_not_disturb_those_of_the_same_key() -> None:
    """One of three callers of a key goes away; the other two get the answer."""
    sender = Sender()
    reads = Coalescer(sender.load, most=100)
    tasks = [asyncio.ensure_future(reads(2)) for _ in range(3)]
    await sender.arrived.acquire()
    tasks[0].cancel()
    await turns()
    sender.go.release()
    assert await asyncio.gather(*tasks[1:]) == [20, 20]
    assert tasks[0].cancelled()


async def test_a_failed_read_reaches_all_its_callers_and_no_later_one() -> None:
    """Everyone who shared the read gets the error; the key can be read again at once."""
    sender = Sender(held=False)
    sender.errors[0] = OSError("gone")
    reads = Coalescer(sender.load, most=100)
    lost = await asyncio.gather(reads(2), reads(2), return_exceptions=True)
    assert [type(error) for error in lost] == [OSError, OSError]
    assert await reads(2) == 20


async def test_a_failed_read_whose_callers_have_gone_is_no_warning() -> None:
    """An error that nobody waits for any more is dropped without noise."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    sender = Sender()
    sender.errors[0] = OSError("gone")
    reads = Coalescer(sender.load, most=100)
    task = asyncio.ensure_future(reads(2))
    await sender.arrived.acquire()
    task.cancel()
    sender.go.release()
    await reads.drain()
    await turns()
    del task
    sender.errors.clear()
    gc.collect()
    assert complaints == []


async def test_the_keys_of_a_crowd_are_cut_into_batches() -> None:
    """A read has at most `most` keys; each key is in one of them."""
    sender = Sender(held=False)
    reads = Coalescer(sender.load, most=3)
    await asyncio.gather(*(reads(n) for n in range(7)))
    assert sender.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_a_key_that_could_not_be_looked_for_fails_alone() -> None:
    """Its callers are told why; those who asked for the others in the same read are answered."""

    async def load(keys: Sequence[str]) -> dict[str, str | BaseException]:
        return {key: OSError(key) if key == "bad" else key.upper() for key in keys}

    read: Coalescer[str, str] = Coalescer(load, most=10)
    answers = await asyncio.gather(*map(read, ["a", "bad", "b"]), return_exceptions=True)
    assert (answers[0], type(answers[1]), answers[2]) == ("A", OSError, "B")
