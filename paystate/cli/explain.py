"""``paystate explain``: everything that is known of one payment, in the order in which it came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import run_over, settings_of
from paystate.keys import DEFAULT_MERCHANT

if TYPE_CHECKING:
    from paystate.resources import Resources

__all__ = ["command"]


@click.command("explain")
@click.argument("payment", metavar="ID")
@click.option("--kind", type=click.Choice(["charge", "transfer"]), help="What ID is the id of.")
@click.option("--ref", is_flag=True, help="ID is a merchant reference (tx_ref).")
@click.option("--merchant", default=DEFAULT_MERCHANT, show_default=True, help="Whose payment.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    payment: str, kind: str | None, ref: bool, merchant: str, data_dir: str, as_json: bool
) -> None:
    """Explain the payment ID: every event, what was decided and why, every change.

    Also what the cache holds now and whether it would be served, and what waits for an operator.
    Nothing is changed.

    \b
    Examples:
      paystate explain 7001
      paystate explain order-7001 --ref
      paystate explain 7001 --json | jq .timeline

    \b
    Exit codes:
      0  explained
      1  nothing is known of it
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """

    async def work(resources: Resources) -> Any:
        from paystate.keys import EntityKind  # noqa: PLC0415
        from paystate.payments.explaining import Explainer  # noqa: PLC0415

        explainer = Explainer(
            resources.store,
            resources.redis,
            resources.keys,
            lease_ms=resources.settings.lease_ms,
        )
        if ref:
            return await explainer.reference(merchant, payment)
        return await explainer.payment(merchant, payment, EntityKind(kind) if kind else None)

    found = run_over(settings_of(data_dir), work)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    for line in (*_head(found), "", *map(_step, found["timeline"])):
        click.echo(line)
    if found["older_events_left_out"]:
        click.echo("  (older events are left out)")
    for stuck in found["to_rule_on"]:
        click.echo(f"\nEvent {stuck['event']} waits for an operator: {stuck['meaning']}")
        click.echo(f"  it says: {_claim(stuck['claim'])}")
        for name in ("release", "reject", "replay"):
            click.echo(f"  {stuck[name]}")
    click.echo("\nNot kept, and so not shown:")
    for line in found["not_kept"]:
        click.echo(f"  {line}")


def _head(found: dict[str, Any]) -> list[str]:
    lines = [_state(found["now"]), *(f"  attempt: {_state(one)}" for one in found["attempts"])]
    cache = found["cache"]
    if not cache["reachable"]:
        lines.append(f"Cache: cannot be reached ({cache['error']}); the database answers.")
    else:
        holds = ", ".join(f"{name}={value}" for name, value in cache["holds"].items()) or "nothing"
        verb = "would be served" if cache["served"] else "would not be served"
        lines.append(f"Cache: {cache['key']} holds {holds}; {verb}: {cache['why']}.")
    for overlay in found["overlays"]:
        money = f" {overlay['amount']} {overlay['currency'] or ''}" if overlay["amount"] else ""
        lines.append(f"Overlay: {overlay['type']} {overlay['id']} {overlay['status']}{money}")
    return lines


def _state(state: dict[str, Any]) -> str:
    held = ", held for an operator" if state["held"] else ""
    other = state["payment_id"] if state["kind"] == "reference" else state["tx_ref"]
    return (
        f"{state['kind']} {state['id']} ({other or 'no counterpart'}): {state['shown']}, version "
        f"{state['version']}, since {state['changed_at']}; {state['open_events']} open and "
        f"{state['held_events']} held events{held}"
    )


def _claim(claim: dict[str, Any] | None) -> str:
    if claim is None:
        return "(pruned)"
    return ", ".join(f"{name}={value}" for name, value in claim.items()) or "(nothing to show)"


def _step(step: dict[str, Any]) -> str:
    return f"{step['at']}  {_WORDS[step['what']](step)}"


def _received(step: dict[str, Any]) -> str:
    return f"event {step['event']} came by {step['api']} ({step['type']}): {_claim(step['claim'])}"


def _ended(step: dict[str, Any]) -> str:
    who = f" [by {step['settled_by']}]" if step["settled_by"] else ""
    reason = f" ({step['reason']})" if step["reason"] else ""
    return f"event {step['event']} is {step['state']}{reason}: {step['meaning']}{who}"


def _changed(step: dict[str, Any]) -> str:
    before = step["previous_status"] or "nothing"
    same = " (held or not, or its counterpart, changed)" if before == step["status"] else ""
    return (
        f"{step['kind']} {step['id']}: {before} → {step['status']}{same}, "
        f"version {step['version']}; "
        f"told on {', '.join(step['told_on'])}"
    )


def _ruling(step: dict[str, Any]) -> str:
    why = f": {step['why']}" if step["why"] else ""
    through = f" through event {step['through_event']}" if step["through_event"] else ""
    return f"{step['by']} gave the ruling {step['action']} on event {step['event']}{through}{why}"


_WORDS = {"received": _received, "ended": _ended, "changed": _changed, "ruling": _ruling}
