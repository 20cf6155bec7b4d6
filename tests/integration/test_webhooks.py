"""The webhook endpoint: who is let in, what is recorded, and what is never answered with a 5xx."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from tests.conftest import Opener
from tests.harness import SECRET, new_id, open_world
from tests.servers import OwnValkey
from tests.unit import bodies


async def _inbox(world: Any) -> list[tuple[str, str | None]]:
    """Return (state, reason) of every inbox row."""

    async def work(connection: Any) -> list[tuple[str, str | None]]:
        rows = await connection.exec_driver_sql("SELECT state, reason FROM inbox ORDER BY id")
        return [(row[0], row[1]) for row in rows]

    found: list[tuple[str, str | None]] = await world.resources.store._database.read(work)
    return found


async def test_a_webhook_is_recorded_once_and_shows_processing_at_once(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        body = bodies.v3_charge(id=(number := new_id()))
        first = await world.v3(body)
        again = await world.v3(body)
        assert (first.status, first.body["status"]) == (200, "recorded")
        assert (again.status, again.body["status"]) == (200, "duplicate")
        assert await _inbox(world) == [("open", None)]
        shown = await world.status(number)
        assert (shown["status"], shown["version"], shown["terminal"]) == ("processing", 1, False)


@pytest.mark.parametrize("secret", ["current-hash", "previous-hash"])
async def test_both_live_secrets_are_taken_for_both_apis(open_process: Opener, secret: str) -> None:
    async with open_world(open_process) as world:
        assert (await world.v3(bodies.v3_charge(id=new_id()), secret=secret)).status == 200
        assert (await world.v4(bodies.v4_charge(id=f"chg_{new_id()}"), secret=secret)).status == 200


async def test_what_is_not_signed_changes_nothing(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        raw = bodies.encode(bodies.v4_charge(id="chg_forged"))
        good = sign_v4(raw, SECRET)
        refusals = {
            "missing": await world.send(raw, {}),
            "malformed": await world.send(raw, {V4_HEADER: "x"}),
            "mismatch": await world.send(raw + b" ", {V4_HEADER: good}),
        }
        downgraded = await world.send(raw, {V4_HEADER: sign_v4(raw, "x"), V3_HEADER: SECRET})
        wrong = await world.v3(bodies.v3_charge(), secret="guess")
        for reason, says in (
            ("missing", "dashboard"), ("malformed", "proxy"), ("mismatch", "FLW_SECRET_HASH")
        ):  # fmt: skip
            answer = refusals[reason]
            assert (answer.status, answer.reason) == (401, reason)
            assert says in answer.body["detail"]
        assert (downgraded.status, wrong.status) == (401, 401)
        assert await _inbox(world) == []
        assert (await world.get("/api/payments/chg_forged/status")).status == 404


@pytest.mark.parametrize("family", [*bodies.PAYMENTS, *bodies.OTHERS])
async def test_every_family_is_acknowledged_as_json_and_as_a_form(
    open_process: Opener, family: str
) -> None:
    make = {**bodies.PAYMENTS, **bodies.OTHERS}[family]
    async with open_world(open_process) as world:
        raw, form = bodies.encode(make()), bodies.encode_form(make())
        as_json = await world.send(raw, {V3_HEADER: SECRET})
        as_form = await world.send(
            form, {V3_HEADER: SECRET}, content_type="application/x-www-form-urlencoded"
        )
        assert (as_json.status, as_form.status) == (200, 200)
        expected = "recorded" if family in bodies.PAYMENTS else "ignored"
        assert (as_json.body["status"], as_form.body["status"]) == (expected, expected)


async def test_a_card_debit_or_an_otp_leaves_no_trace(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        for make in (bodies.virtual_card_debit, bodies.virtual_card_otp):
            answer = await world.v3(make())
            assert answer.body == {"status": "ignored", "reason": "sensitive"}
        assert await _inbox(world) == []


_HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"hello",
    "not utf-8": b"\xff\xfe{",
    "a list": b"[1,2]",
    "a number": b"12",
    "nan": b'{"event":"charge.completed","data":{"id":1,"amount":NaN,"status":"successful"}}',
    "half a surrogate": b'{"event":"charge.completed","data":{"id":2,"tx_ref":"\\ud800"}}',
    "a nul in a reference": b'{"event":"charge.completed","data":{"id":3,"tx_ref":"a\\u0000b"}}',
    "a nul in an id": b'{"event":"charge.completed","data":{"id":"a\\u0000b"}}',
    "a huge id": b'{"event":"charge.completed","data":{"id":' + b"9" * 5000 + b"}}",
    "a huge amount": b'{"event":"charge.completed","data":{"id":4,"amount":1e400}}',
    "a fraction as id": b'{"event":"charge.completed","data":{"id":1.5}}',
    "a key as id": b'{"event":"charge.completed","data":{"id":"1:hash","tx_ref":"x:y{z}%00"}}',
    "deep": b'{"data":' * 5000 + b"1" + b"}" * 5000,
    "wrong types": b'{"event":[],"data":{"id":{},"status":[1],"customer":"x","card":7}}',
    "no data": b'{"event":"charge.completed","data":null}',
    "an unknown word": b'{"event":"charge.completed","data":{"id":5,"status":"wobbling"}}',
    "a text as data": b'{"event":"charge.completed","data":"x"}',
}


@pytest.mark.parametrize("name", _HOSTILE)
async def test_no_body_is_answered_with_a_5xx(open_process: Opener, name: str) -> None:
    raw = _HOSTILE[name]
    async with open_world(open_process) as world:
        for headers in ({V3_HEADER: SECRET}, {V4_HEADER: sign_v4(raw, SECRET)}):
            answer = await world.send(raw, headers)
            assert answer.status in (200, 400), (answer.status, answer.body)
            if answer.status == 400:
                assert answer.reason
        await world.settle()


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    open_process: Opener,
) -> None:
    async with open_world(open_process, MAX_BODY_BYTES="2048") as world:

        async def chunks() -> Any:
            for _ in range(64):
                yield b"x" * 1024

        announced = await world.send(b"x" * 4096, {V3_HEADER: SECRET})
        assert (announced.status, announced.reason) == (413, "body_too_large")
        async with world.session.post(
            f"{world.url}/webhooks/flutterwave", data=chunks(), headers={V3_HEADER: SECRET}
        ) as response:
            assert response.status == 413


async def test_a_compressed_body_is_not_unpacked(open_process: Opener) -> None:
    import gzip

    async with open_world(open_process) as world:
        bomb = gzip.compress(b" " * 10_000_000)
        answer = await world.send(bomb, {V3_HEADER: SECRET, "Content-Encoding": "gzip"})
        assert answer.status == 400


async def test_amounts_and_ids_stay_exact(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        exact = Decimal("9007199254740993.07") / 100
        body = bodies.v3_charge(id=90071992547409931, amount=exact, currency="ngn")
        assert (await world.v3(body)).status == 200
        await world.settle()
        details = (await world.get("/api/payments/90071992547409931")).body
        assert (Decimal(details["amount"]), details["currency"]) == (exact, "NGN")


async def test_the_same_event_with_another_status_is_another_event(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = f"chg_{new_id()}"
        for word in ("pending", "succeeded", "succeeded"):
            await world.v4(bodies.v4_charge(id=number, status=word))
        assert len(await _inbox(world)) == 2


async def test_each_merchant_has_its_own_secret_and_its_own_payments(
    open_process: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "merchants.toml"
    path.write_text('[acme]\nsecret_hash = "acme-hash"\n')
    async with open_world(open_process, MERCHANTS_FILE=str(path)) as world:
        body = bodies.v3_charge(id=(number := new_id()))
        assert (await world.v3(body, merchant="acme")).status == 401
        assert (await world.v3(body, secret="acme-hash", merchant="acme")).status == 200
        assert (await world.v3(body, secret="acme-hash")).status == 401
        unknown = await world.v3(body, merchant="nobody")
        assert (unknown.status, unknown.reason) == (404, "unknown_merchant")
        assert (await world.get(f"/api/payments/{number}/status")).status == 404
        assert (await world.status(number, "?merchant=acme"))["status"] == "processing"
        assert (await world.v3(body)).body["status"] == "recorded"  # no duplicate across merchants


async def test_many_webhooks_at_once_share_commits_and_one_bad_row_harms_no_other(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        store, sizes = world.resources.store, []
        acknowledge = store.acknowledge

        async def spy(events: Any) -> Any:
            sizes.append(len(events))
            return await acknowledge(events)

        world.resources.recorder._commits._send = spy
        sends = [world.v3(bodies.v3_charge(id=new_id())) for _ in range(60)]
        answers = await asyncio.gather(*sends)
        assert {answer.status for answer in answers} == {200}
        assert sum(sizes) == 60
        assert len(sizes) < 60


async def test_with_redis_gone_a_webhook_is_recorded_and_acknowledged_after_the_last_lease(
    database_url: str, own_valkey: OwnValkey
) -> None:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, own_valkey.url)
        async with open_world(opener, PENDING_LEASE_MS="400") as world:
            waits: list[float] = []

            async def note(seconds: float) -> None:
                waits.append(seconds)

            world.resources.recorder._sleep = note
            own_valkey.kill()
            answer = await world.v3(bodies.v3_charge(id=(number := new_id())))
            assert answer.status == 200
            assert len(waits) == 1
            assert 0 < waits[0] <= 0.6
            assert (await world.status(number))["status"] == "processing"
            own_valkey.restart()
            assert await world.settle() == 1
            assert (await world.status(number))["status"] == "successful"


async def test_with_the_database_gone_a_webhook_is_not_acknowledged(
    valkey_url: str, tmp_path: Path
) -> None:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        nowhere = f"postgresql://nobody@/nothing?host={tmp_path}"
        opener = Opener(stack, nowhere, valkey_url)
        async with open_world(opener) as world:
            answer = await world.v3(bodies.v3_charge())
            assert (answer.status, answer.reason) == (503, "database_unreachable")
            assert answer.headers["Retry-After"] == "1"
            assert (await world.get("/readyz")).status == 503
            assert (await world.get("/healthz")).status == 200


async def test_a_caller_that_hangs_up_does_not_undo_the_record(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        body = bodies.v3_charge(id=(number := new_id()))
        reached = asyncio.Event()
        go_on = asyncio.Event()
        send = world.resources.recorder._commits._send

        async def slow(events: Any) -> Any:
            reached.set()
            await go_on.wait()
            return await send(events)

        world.resources.recorder._commits._send = slow
        posting = asyncio.create_task(world.v3(body))
        await reached.wait()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        go_on.set()
        await world.resources.recorder.drain()
        assert (await world.status(number))["status"] == "processing"


async def test_metrics_and_the_log_line_name_the_outcome_and_no_secret(
    open_process: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_world(open_process) as world:
        await world.v3(bodies.v3_charge(id=new_id()))
        await world.v3(bodies.v3_charge(), secret="a-wrong-guess")
        text = (await world.get("/metrics")).body.decode()
        assert 'paystate_webhooks_total{outcome="recorded",reason="new"} 1.0' in text
        assert 'paystate_webhooks_total{outcome="refused",reason="mismatch"} 1.0' in text
        written = "".join(capsys.readouterr()) + text
        assert "request_finished" in written
        for secret in (SECRET, "a-wrong-guess", "Adaeze", "adaeze@example.com", "flw-t1nf"):
            assert secret not in written


async def test_a_problem_is_a_problem_document(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        answer = await world.send(b"{", {V3_HEADER: SECRET})
        assert answer.status == 400
        assert answer.body["type"] == f"urn:paystate:problem:{answer.reason}"
        assert {"title", "status", "detail"} <= answer.body.keys()
        missing = await world.get("/no/such/path")
        assert (missing.status, missing.reason) == (404, "no_such_path")
        async with world.session.get(f"{world.url}/webhooks/flutterwave") as response:
            assert response.status == 405
            assert json.loads(await response.read())["reason"] == "method_not_allowed"
