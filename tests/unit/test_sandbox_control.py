"""Whoever directs a sandbox can: by script, by request and by a page that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paystate.flutterwave.sandbox import Form, RunningSandbox, Sandbox, SandboxConfig, open_sandbox
from paystate.flutterwave.sandbox.page import CONTENT_SECURITY_POLICY
from paystate.flutterwave.sandbox.script import ScriptInvalid, parse_script, read_script
from paystate.status import Status
from paystate.updates import Kind
from tests.unit.test_sandbox_webhooks import hook_and_sandbox

NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}


class Control:
    """One who directs a sandbox over HTTP."""

    def __init__(self, running: RunningSandbox, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.session = session

    @property
    def sandbox(self) -> Sandbox:
        return self.running.sandbox

    async def get(self, path: str) -> Any:
        return (await self.call("GET", path))[1]

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return await self.call("POST", path, body, **headers)

    async def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        url = f"{self.running.url}/sandbox/{path}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()


@asynccontextmanager
async def controlling(running: RunningSandbox) -> AsyncIterator[Control]:
    async with aiohttp.ClientSession() as session:
        yield Control(running, session)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    async with open_sandbox(SandboxConfig(seed=1)) as running, controlling(running) as control:
        yield control


# Scripts

STORY = [
    {"do": "create", "as": "a", "api": "v4", "tx_ref": "cart", "announce": True},
    {"do": "create", "as": "b", "amount": "12.50", "announce": True, "faults": ["reorder"]},
    {"at_s": 0.02, "do": "fault", "webhook": ["duplicate", "delay"], "delay_s": 0.05},
    {"at_s": 0.02, "do": "settle", "payment": "a", "status": "successful"},
    {"at_s": 0.03, "do": "settle", "payment": "b", "status": "failed", "faults": []},
    {"at_s": 0.03, "do": "send", "family": "bvn_completed", "form_encoded": True},
    {"at_s": 0.04, "do": "refund", "payment": "a", "amount": 100, "faults": ["wrong_amount"]},
    {"at_s": 0.05, "do": "announce", "payment": "b", "faults": ["bad_signature"]},
    {"at_s": 0.05, "do": "webhooks", "rates": {"drop": 0.3, "contradict": 0.3, "delay": 0.5}},
    *({"at_s": 0.05, "do": "send", "family": "v3_charge"} for _ in range(20)),
    {"at_s": 0.06, "do": "fault", "mode": "503", "seconds": 5},
    {"at_s": 0.06, "do": "send", "family": "v4_reversal", "as": "t"},
    {"at_s": 0.06, "do": "reverse", "payment": "t"},
]


async def _log_of_story(seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    config = {"retry_interval_s": 0.03, "max_delay_s": 0.05, "seed": seed}
    async with (
        hook_and_sandbox(**config) as (_, running),
        controlling(running) as control,
    ):
        status, _ = await control.post("script", STORY)
        assert status == 202
        status, played = await control.post("drain")
        assert status == 200
        listed = (await control.get("deliveries"))["deliveries"]
        return [{k: v for k, v in d.items() if k != "at"} for d in listed], played


async def test_the_same_seed_and_script_give_the_same_deliveries() -> None:
    first, played = await _log_of_story(5)
    again, _ = await _log_of_story(5)
    other, _ = await _log_of_story(6)
    assert first == again
    assert first != other
    assert len(first) == 32
    assert (played["playing"], played["done"], played["steps"]) == (False, len(STORY), len(STORY))
    assert [p["do"] for p in played["problems"]] == ["reverse"]


async def test_a_script_says_what_happens_and_in_what_order() -> None:
    async with (
        hook_and_sandbox(retry_interval_s=0.01) as (_, running),
        controlling(running) as control,
    ):
        await control.post("script", STORY[:8])
        await control.post("drain")
        told = [
            (d.family, d.status, d.faults, d.copy, d.attempt)
            for d in running.sandbox.sender.deliveries
        ]
        assert told == [
            ("v4_charge", "pending", (), 1, 1),
            ("v3_charge", "failed", (), 1, 1),
            ("bvn_completed", "", (), 1, 1),
            ("v3_charge", "pending", ("reorder",), 1, 1),
            ("v4_refund", "succeeded", ("wrong_amount",), 1, 1),
            ("v3_charge", "failed", ("bad_signature",), 1, 1),
            ("v3_charge", "failed", ("bad_signature",), 1, 2),
            ("v4_charge", "succeeded", ("duplicate", "delay"), 1, 1),
            ("v4_charge", "succeeded", ("duplicate", "delay"), 2, 1),
            ("v3_charge", "failed", ("bad_signature",), 1, 3),
            ("v3_charge", "failed", ("bad_signature",), 1, 4),
        ]


async def test_one_script_at_a_time_and_it_can_be_stopped(control: Control) -> None:
    await control.post("receiver", {"url": "http://127.0.0.1:9/never"})
    long = [{"do": "create"}, {"at_s": 3600, "do": "create", "announce": True}]
    assert (await control.post("script", long))[0] == 202
    status, refused = await control.post("script", long)
    assert (status, refused["error"]) == (409, "conflict")
    status, busy = await control.post("drain", {"timeout_s": 0.01})
    assert (status, busy["error"]) == (409, "busy")
    stopped = (await control.call("DELETE", "script"))[1]
    assert (stopped["playing"], stopped["done"]) == (False, 1)
    assert (await control.post("drain"))[0] == 200
    assert len(control.sandbox.truth) == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({}, "a list"),
        ([], "a list"),
        ([1], "step 1: a step is an object"),
        ([{"do": "create"}, {"do": "dance"}], "step 2: `do` is one of"),
        ([{"do": ["create"]}], "step 1: `do` is one of"),
        ([{"do": "create", "at_s": "1"}], "a number of seconds"),
        ([{"do": "create", "at_s": True}], "a number of seconds"),
        ([{"do": "create", "at_s": -1}], "not before"),
        ([{"do": "create", "at_s": 2}, {"do": "create", "at_s": 1}], "step 2: `at_s` is not"),
        ([{"do": "create", "ammount": 1}], "`create` takes no ammount"),
    ],
)
async def test_a_script_without_sense_is_refused_before_it_begins(
    control: Control, script: Any, message: str
) -> None:
    with pytest.raises(ScriptInvalid, match=message):
        parse_script(script)
    status, refused = await control.post("script", script)
    assert status == 400
    assert message in refused["message"]
    assert (await control.get("script"))["steps"] == 0


def test_a_script_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('[{"at_s": 0.5, "do": "create", "amount": 0.1}]')
    (step,) = read_script(str(path))
    assert (step.at_s, step.body["amount"]) == (0.5, Decimal("0.1"))
    path.write_text("[")
    for bad in (path, tmp_path / "none.json"):
        with pytest.raises(ScriptInvalid, match="cannot be read"):
            read_script(str(bad))


async def test_a_sandbox_may_begin_with_a_script(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps([{"do": "create", "tx_ref": "from-the-file"}]))
    async with open_sandbox(SandboxConfig(script=str(path))) as running:
        await running.player.over()
        assert len(running.sandbox.truth.attempts("from-the-file")) == 1


# Receiver, rates, faults


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/hook", 200),
        ("http://127.9.9.9/hook", 200),
        ("https://localhost/hook", 200),
        ("http://[::1]:80/hook", 200),
        (None, 200),
        ("http://example.com/hook", 403),
        ("http://192.168.1.4/hook", 403),
        ("http://127.0.0.1.example.com/hook", 403),
        ("http://localhost@example.com/hook", 403),
        ("ftp://127.0.0.1/hook", 400),
        ("127.0.0.1/hook", 400),
        ("http://[/hook", 400),
        (7, 400),
    ],
)
async def test_the_receiver_is_on_this_machine(
    control: Control, url: object, expected: int
) -> None:
    status, answer = await control.post("receiver", {"url": url})
    assert status == expected
    if expected == 403:
        assert "--allow-remote" in answer["message"]
    elif expected == 200:
        assert control.sandbox.sender.receiver.url == url


async def test_another_machine_is_allowed_on_request_and_at_the_start() -> None:
    remote, other = "http://192.0.2.1/hook", "http://192.0.2.2/hook"
    for config, allowed in (
        (SandboxConfig(allow_remote=True), [200, 200]),
        (SandboxConfig(receiver_url=remote), [200, 403]),
    ):
        async with open_sandbox(config) as running, controlling(running) as control:
            got = [(await control.post("receiver", {"url": url}))[0] for url in (remote, other)]
            assert got == allowed


async def test_a_new_secret_makes_the_old_one_old() -> None:
    async with hook_and_sandbox() as (hook, running), controlling(running) as control:
        new = "an-entirely-new-secret"
        status, answer = await control.post("receiver", {"secret_hash": new})
        assert (status, answer["url"]) == (200, hook.url)
        assert new not in json.dumps(await control.get("state"))
        for family, faults in (("v3_charge", []), ("v4_charge", ["old_secret"])):
            await control.post("send", {"family": family, "faults": faults})
        await control.post("drain")
        assert len(hook.updates) == 1
        assert hook.refused == ["mismatch"] * 4
        for bad in ("", " ", "\n", 5):
            assert (await control.post("receiver", {"secret_hash": bad}))[0] == 400


async def test_rates_and_retries_are_changed_on_the_way(control: Control) -> None:
    changes = {"rates": {"drop": 0.25}, "retries": 1, "retry_interval_s": 0.5, "max_delay_s": 2}
    status, now = await control.post("webhooks", changes)
    assert status == 200
    assert now == await control.get("webhooks")
    assert (now["rates"]["drop"], now["rates"]["duplicate"]) == (0.25, 0.1)
    assert (now["retries"], now["retry_interval_s"], now["max_delay_s"]) == (1, 0.5, 2.0)
    for bad in (
        {"rates": {"drop": 2}},
        {"rates": {"dropp": 1}},
        {"retries": 4},
        {"retry_interval_s": -1},
        {"rates": 5},
    ):
        assert (await control.post("webhooks", bad))[0] == 400
        assert await control.get("webhooks") == now


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("send", {"family": "v9_charge"}),
        ("send", {}),
        ("send", {"family": "v3_charge", "faults": "drop"}),
        ("send", {"family": "v3_charge", "faults": ["gremlin"]}),
        ("send", {"family": "v3_charge", "faults": ["delay"], "delay_s": -1}),
        ("faults", {"webhook": "gremlin"}),
        ("faults", {"webhook": "drop", "count": 0}),
        ("faults", {"mode": "503", "share": 2}),
        ("faults", {"mode": "html", "code": 99}),
        ("faults", {"mode": "slow", "delay_s": -1}),
        ("truth", None),
    ],
)
async def test_an_order_without_sense_is_refused(control: Control, path: str, body: Any) -> None:
    if path == "truth":
        status, answer = await control.call("GET", "truth?page=0")
    else:
        status, answer = await control.post(path, body)
    assert (status, answer["error"]) == (400, "invalid")


async def test_another_sites_page_may_not_direct_it(control: Control) -> None:
    foreign = {"Origin": "https://shop.example.com"}
    status, answer = await control.post("payments", {}, **foreign)
    assert (status, answer["error"]) == (403, "foreign")
    assert (await control.call("DELETE", "script", **foreign))[0] == 403
    assert (await control.post("payments", {}, Origin=control.running.url))[0] == 201
    assert len(control.sandbox.truth) == 1


async def test_a_payment_can_be_announced_again_and_a_transfer_reversed(
    control: Control,
) -> None:
    made = (await control.post("payments", {"api": "v4", "kind": "transfer"}))[1]
    at = f"payments/{made['id']}"
    assert (await control.post(f"{at}/reverse", {}))[0] == 409
    await control.post(f"{at}/settle", {"status": "successful"})
    assert (await control.post(f"{at}/announce", {}))[0] == 200
    status, reversed_ = await control.post(f"{at}/reverse?kind=transfer", {})
    assert (status, reversed_["status"]) == (200, "successful")
    assert reversed_["reversed_at"] is not None
    assert (await control.post(f"{at}/reverse", {}))[0] == 409
    assert (await control.post("payments/nobody/announce", {}))[0] == 404
    listed = (await control.get("deliveries?limit=2"))["deliveries"]
    assert [d["family"] for d in listed] == ["v4_transfer", "v4_reversal"]
    later = (await control.get(f"deliveries?after={listed[0]['number']}"))["deliveries"]
    assert later == listed[1:]


# Truth


async def test_an_oracle_can_ask_for_the_truth(control: Control) -> None:
    sandbox = control.sandbox
    charge = sandbox.create(payment_id="5", tx_ref="cart", **NGN)
    sandbox.create(payment_id="5", kind=Kind.TRANSFER, **NGN)
    second = sandbox.create(form=Form.V4, tx_ref="cart", **NGN)
    sandbox.settle(charge, "failed")
    sandbox.settle(second, "successful")
    sandbox.refund(second, amount=Decimal(100))
    asked = f"truth?ids=5,transfer:5,{second.id},nobody&refs=cart,none"
    answer = await control.get(asked)
    statuses = {i: p and (p["kind"], p["status"]) for i, p in answer["payments"].items()}
    assert statuses == {
        "5": ("charge", "failed"),
        "transfer:5": ("transfer", "pending"),
        second.id: ("charge", "successful"),
        "nobody": None,
    }
    assert answer["payments"][second.id]["refunded"] == "100"
    assert answer["references"] == {
        "cart": {"status": "successful", "payments": ["5", second.id]},
        "none": None,
    }


async def test_the_whole_truth_comes_page_by_page(control: Control) -> None:
    ids = [str(control.sandbox.create(**NGN).id) for _ in range(7)]
    seen: list[str] = []
    for number in (1, 2, 3):
        answer = await control.get(f"truth?size=3&page={number}")
        assert answer["page_info"] == {"total": 7, "current_page": number, "total_pages": 3}
        seen += [p["id"] for p in answer["payments"]]
    assert seen == ids


async def test_a_reset_begins_anew_with_the_same_choices() -> None:
    async with hook_and_sandbox() as (_, running), controlling(running) as control:

        async def story() -> list[Any]:
            await control.post("script", STORY[:8])
            await control.post("drain")
            listed = (await control.get("deliveries"))["deliveries"]
            return [{k: v for k, v in d.items() if k != "at"} for d in listed]

        first = await story()
        await control.post("faults", {"mode": "503"})
        status, answer = await control.post("reset")
        assert (status, answer) == (200, {"seed": 1})
        assert (await control.get("truth"))["payments"] == []
        assert (await control.get("state"))["api"]["fault"] == "none"
        assert await story() == first
        await control.post("reset", {"seed": 9})
        assert await story() != first


# The page


class _Tags(HTMLParser):
    """Collects elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


async def _fetch(control: Control, path: str) -> tuple[str, Any]:
    async with control.session.get(control.running.url + path) as response:
        assert response.status == 200
        return await response.text(), response.headers


async def test_a_charge_is_disputed_and_the_dispute_taken_further(control: Control) -> None:
    """It stands in the list of its API, and no webhook tells of it."""
    sandbox = control.sandbox
    paid, pending = (sandbox.create(amount=Decimal(100), currency="NGN") for _ in range(2))
    sandbox.settle(paid, "successful", announce=False)
    path = f"payments/{paid.id}/chargeback"
    for body, status in (({"amount": "40"}, "initiated"), ({"status": "won"}, "won")):
        code, shown = await control.post(path, body)
        assert (code, [c["status"] for c in shown["chargebacks"]]) == (200, [status])
    assert (shown["chargebacks"][0]["amount"], shown["status"]) == ("40", "successful")
    assert (await control.get("deliveries"))["deliveries"] == []
    for refused, body in ((path, {"status": "gone"}), (f"payments/{pending.id}/chargeback", {})):
        assert (await control.post(refused, body))[0] in (400, 409)


async def test_the_page_is_ours_alone(control: Control) -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    for path, content_type in (
        ("/sandbox", "text/html"),
        ("/sandbox/page.css", "text/css"),
        ("/sandbox/page.js", "text/javascript"),
    ):
        text, headers = await _fetch(control, path)
        assert headers["Content-Type"].startswith(content_type)
        assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.]+", text)) - {"http://127.0.0.1"}
        assert not addresses
        assert "@import" not in text
    html, _ = await _fetch(control, "/sandbox")
    tags = _Tags()
    tags.feed(html)
    for tag, attributes in tags.seen:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value in ("", "data:,") or value.startswith("/sandbox/"), (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert tag != "style"


async def test_the_page_can_be_used_by_keyboard_and_in_the_dark(control: Control) -> None:
    html, _ = await _fetch(control, "/sandbox")
    css, _ = await _fetch(control, "/sandbox/page.css")
    script, _ = await _fetch(control, "/sandbox/page.js")
    tags = _Tags()
    tags.feed(html)
    names = [tag for tag, _ in tags.seen]
    fields = sum(names.count(tag) for tag in ("input", "select", "textarea"))
    assert names.count("label") == fields
    assert ("html", {"lang": "en"}) in tags.seen
    assert "light-dark(" in css
    assert ":focus-visible" in css
    assert "innerHTML" not in script
    assert "eval" not in script


async def test_what_the_page_posts_is_what_the_sandbox_takes(control: Control) -> None:
    """Every address of its forms exists, and takes the fields as a browser fills them."""
    html, _ = await _fetch(control, "/sandbox")
    tags = _Tags()
    tags.feed(html)
    paths = {a["data-post"] for tag, a in tags.seen if tag == "form" and "data-post" in a}
    forms: dict[str, Any] = {
        "payments": {"api": "v3", "kind": "charge", "amount": "1500.25", "currency": "NGN",
                     "announce": True},
        "send": {"family": "v3_charge", "status": "failed", "form_encoded": False},
        "receiver": {"url": None},
        "faults": {"mode": "none", "html": False},
        "api": {"calls_per_minute": None, "cool_off_s": 1800, "retry_after": True,
                "not_found_code": None, "revoke_tokens": False},
        "webhooks": {"retries": 3, "retry_interval_s": 2, "max_delay_s": 5,
                     "form_encoded": False, "rates": {"drop": 0}},
    }  # fmt: skip
    assert {p.removeprefix("/sandbox/") for p in paths if p} == forms.keys()
    for path, body in forms.items():
        assert (await control.post(path, body))[0] < 300, path
    state = await control.get("state")
    assert state["payments"] == 2
    assert state["families"]
    assert next(control.sandbox.truth.newest_first()).status is Status.FAILED
