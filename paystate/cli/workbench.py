"""What commands share that work on the database and the cache themselves, beside any server.

Settings come from the environment; where that names neither a database nor a cache, from a running
`paystate dev`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.devdata import DataDir, DevFileInvalid, Running, read_data_dir
from paystate.cli.exits import Exit, Failure, errors_as_exits, load_settings

if TYPE_CHECKING:
    from paystate.resources import Resources
    from paystate.settings import Settings

__all__ = ["DURATION", "MOMENT", "run_over", "settings_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    return int(found[1]) * _UNITS[found[2]] if found else None


class _Duration(click.ParamType[timedelta]):
    """A duration such as 90d, 12h, 30m or 45s."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the duration that `value` says."""
        if isinstance(value, timedelta):
            return value
        seconds = _seconds(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no duration like 90d, 12h, 30m or 45s", param, ctx)
        return timedelta(seconds=seconds)


class _Moment(click.ParamType[int]):
    """A moment in ms since the epoch: so long ago (2h), or ISO 8601, in UTC if it does not say."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment that `value` says."""
        if isinstance(value, int):
            return value
        ago_s = _seconds(str(value))
        if ago_s is not None:
            return int((time.time() - ago_s) * 1000)
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time like 2h (ago) or 2026-01-31T12:00", param, ctx)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)


DURATION = _Duration()
MOMENT = _Moment()


def settings_of(data_dir: str) -> Settings:
    """Return the settings to work with. Ends the command where they cannot be used."""
    try:
        dev = read_data_dir(data_dir)
    except DevFileInvalid as e:
        raise Failure(str(e), Exit.USAGE) from e
    given = {name: value for name, value in os.environ.items() if value}
    if dev.running is None or {"DATABASE_URL", "CACHE_URL"} & given.keys():
        return load_settings(given)
    return load_settings({**_of_dev(dev, dev.running), **given})


def _of_dev(dev: DataDir, running: Running) -> Mapping[str, str]:
    """Return the settings with which a running `paystate dev` works."""
    made = {"DATABASE_URL": f"sqlite:///{dev.path / 'paystate.db'}", "AUDIT_URL": running.web}
    if "valkey" in dev.ports:
        made["CACHE_URL"] = f"redis://127.0.0.1:{dev.ports['valkey']}/0"
    if "API_TOKENS" in dev.secrets:
        made["AUDIT_TOKEN"] = dev.secrets["API_TOKENS"]
    if running.sandbox is not None:
        made |= {
            "FLW_BASE_URL": f"{running.sandbox}/v3",
            "FLW_V4_BASE_URL": f"{running.sandbox}/v4",
            "FLW_TOKEN_URL": f"{running.sandbox}/token",
        }
        names = ("FLW_SECRET_KEY", "FLW_CLIENT_ID", "FLW_CLIENT_SECRET")
        made |= {name: dev.secrets[name] for name in names if name in dev.secrets}
    return made


def run_over(settings: Settings, work: Callable[[Resources], Awaitable[Any]]) -> Any:
    """Open everything, run `work`, close it, and return what it returned.

    Ends the command with the code that fits where the database or the cache cannot be used, or the
    answer is no.
    """
    from paystate.errors import (  # noqa: PLC0415
        CustomerErased,
        CustomerNotFound,
        PaymentNotFound,
        RulingRefused,
    )
    from paystate.logs import configure_logging  # noqa: PLC0415
    from paystate.resources import open_resources  # noqa: PLC0415

    configure_logging("CRITICAL", settings.log_format, "cli")  # what matters is printed

    async def whole() -> Any:
        async with open_resources(settings) as resources:
            await resources.store.ping()
            return await work(resources)

    with errors_as_exits():
        try:
            return asyncio.run(whole())
        except (CustomerErased, CustomerNotFound, PaymentNotFound, RulingRefused) as e:
            raise Failure(str(e), Exit.REFUSED) from e
