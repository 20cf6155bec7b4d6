"""Which server a command talks to, and with what credential.

An option wins over the environment, and the environment over what a running ``paystate dev`` wrote
into its folder. Each is looked up on its own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

import click

from paystate.cli.client import server_url
from paystate.cli.devdata import DEFAULT_FOLDER, DataDir, DevFileInvalid, read_data_dir
from paystate.cli.exits import Exit, Failure, load_settings
from paystate.keys import DEFAULT_MERCHANT

__all__ = ["NAMED_TOKEN", "Target", "data_dir_option", "find_target"]

# A token of API_TOKENS that is not everybody's: whose it is, and what it may do.
NAMED_TOKEN = re.compile(r"[^:=]*:[^:=]*:(?:read|operate)=(.+)")

data_dir_option = click.option(
    "--data-dir",
    default=DEFAULT_FOLDER,
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder of the `paystate dev` to talk to.",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A server (`url` without a path) and what opens it; `dev` is the folder that was asked."""

    url: str
    dev: DataDir = field(repr=False)

    @property
    def sandbox(self) -> str | None:
        """The sandbox of the `paystate dev` that this server belongs to, if it does."""
        running = self.dev.running
        return running.sandbox if running is not None and running.web == self.url else None

    def webhook_secret(self, given: str | None, merchant: str | None) -> str:
        """Return the secret to sign with."""
        if given:
            return given
        if merchant not in (None, DEFAULT_MERCHANT):
            known = load_settings().merchants.get(merchant or "")
            if known is None:
                raise Failure(
                    f"MERCHANTS_FILE has no merchant `{merchant}`: set it, or give --secret",
                    Exit.USAGE,
                )
            return known.secret_hashes[0]
        from_env = os.environ.get("FLW_SECRET_HASH", "").split(",")[0]
        return from_env or self._made_up("FLW_SECRET_HASH", "--secret")

    def token(self, given: str | None) -> str:
        """Return the bearer token to ask with."""
        if given:
            return given
        tokens = [t for t in os.environ.get("API_TOKENS", "").split(",") if t]
        named = [found[1] for t in tokens if (found := NAMED_TOKEN.fullmatch(t))]
        bare = [t for t in tokens if not NAMED_TOKEN.fullmatch(t)]
        return next(iter(bare + named), None) or self._made_up("API_TOKENS", "--token")

    def _made_up(self, name: str, option: str) -> str:
        running = self.dev.running
        if running is not None and name in running.from_env:
            raise Failure(
                f"The running `paystate dev` took {name} from its environment: set {name} here "
                f"too, or give {option}",
                Exit.USAGE,
            )
        if name not in self.dev.secrets:
            raise Failure(
                f"Set {name} or give {option}. (No `paystate dev` has run on {self.dev.path}; "
                "--data-dir names another folder.)",
                Exit.USAGE,
            )
        return self.dev.secrets[name]


def find_target(url: str | None, data_dir: str) -> Target:
    """Return the server that `url`, PORT, or the folder `data_dir` means."""
    try:
        dev = read_data_dir(data_dir)
    except DevFileInvalid as e:
        raise Failure(str(e), Exit.USAGE) from e
    if url is None:
        if port := os.environ.get("PORT"):
            url = f"http://127.0.0.1:{port}"
        else:
            url = dev.running.web if dev.running is not None else "http://127.0.0.1:8080"
    try:
        return Target(server_url(url), dev)
    except ValueError as e:
        raise click.UsageError(f"--url: {e}") from e
