"""What ``paystate dev`` says when all of it can be used, ready to be copied."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from pathlib import Path
from shlex import quote

import click

from paystate.cli.client import Unreachable, request
from paystate.cli.devdata import DEFAULT_FOLDER, DataDir
from paystate.cli.devplan import Plan
from paystate.keys import DEFAULT_MERCHANT, Entity
from paystate.links import Links

__all__ = ["banner", "make_example"]

# A link of this evening is tried again tomorrow.
_LINK_S = 24 * 3600


def make_example(plan: Plan) -> str | None:
    """Have the sandbox make a payment and settle it, webhooks and all; return its id.

    None where it makes no payments of its own accord.
    """
    if not plan.has_traffic:
        return None
    where = f"{plan.running.sandbox}/sandbox/payments"
    try:
        made = request("POST", where, body=json.dumps({"amount": 2500, "announce": True}).encode())
        payment_id = str(made.json()["id"])
        request("POST", f"{where}/{payment_id}/settle", body=b'{"status": "successful"}')
    except (Unreachable, KeyError):
        return None
    return payment_id


def banner(plan: Plan, data: DataDir, example: str | None) -> str:
    """Return the text; only secrets that `paystate dev` made itself are in it."""
    running = plan.running
    token = _shown(plan, data, "API_TOKENS")
    order = f"demo-{secrets.token_hex(2)}"
    # Another at each start: what was settled the last time belongs to that time's order for good.
    payment = example or str(1_000_000 + secrets.randbelow(9_000_000))
    signing = "" if "API_TOKENS" in running.from_env else f"#token={token}"
    rows = [
        ("board", f"{running.web}/{signing}"),
        ("pay page", f"{running.web}{_page(plan, order)}"),
        ("API", running.web),
        ("webhook", running.webhook),
        ("sandbox", f"{running.sandbox}/sandbox" if running.sandbox else "none"),
        ("secret hash", _shown(plan, data, "FLW_SECRET_HASH")),
        ("API token", token),
        ("data", str(data.path)),
    ]
    program = _program()
    folder = _folder_option(data)
    lookup = f"{program} lookup {payment}{folder}"
    bearer = "$API_TOKENS" if "API_TOKENS" in running.from_env else token
    address = f"{running.web}/api/payments/{payment}/status"
    curl = f'curl -H "Authorization: Bearer {bearer}" {address}'
    send = f"{program} send --api v3 --tx-ref {order} --status successful"
    send += f"{'' if example else f' --id {payment}'}{folder}"
    commands = [send, lookup, curl]
    lines = ["", click.style("paystate is ready.", bold=True, fg="green"), ""]
    lines += [f"  {name:<14} {value}" for name, value in rows]
    lines += ["", "Open the pay page, and in another terminal let its payment come:"]
    lines += [*(f"  {text}" for text in commands), ""]
    lines += ["Ctrl-C ends it all.", ""]
    return "\n".join(lines)


def _page(plan: Plan, tx_ref: str) -> str:
    """Return the path of a customer's page for a payment that is yet to come."""
    links = Links(plan.environ["LINK_KEY"].split(","))
    return f"/pay/{links.make(Entity.reference(DEFAULT_MERCHANT, tx_ref), _LINK_S)[0]}"


def _shown(plan: Plan, data: DataDir, name: str) -> str:
    return f"as in {name}" if name in plan.running.from_env else data.secret(name)


def _folder_option(data: DataDir) -> str:
    if data.path == Path(DEFAULT_FOLDER).absolute():
        return ""
    return f" --data-dir {quote(str(data.path))}"


def _program() -> str:
    """Return how to call this program from here."""
    if shutil.which("paystate"):
        return "paystate"
    script = Path(sys.executable).with_name("paystate")
    if not script.exists():
        return f"{quote(sys.executable)} -m paystate"
    here = Path.cwd()
    return quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
