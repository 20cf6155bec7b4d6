"""``python -m paystate.flutterwave.sandbox``: a local Flutterwave, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys

from paystate.errors import SettingsInvalid
from paystate.flutterwave.sandbox.script import ScriptInvalid
from paystate.flutterwave.sandbox.server import SandboxConfig, serve


def main() -> int:
    """Run the sandbox that the environment describes; 2 if it describes none."""
    try:
        config = SandboxConfig.from_env(os.environ)
    except SettingsInvalid as invalid:
        sys.stderr.write(f"{invalid}\n")
        return 2
    try:
        asyncio.run(serve(config))
    except ScriptInvalid as invalid:
        sys.stderr.write(f"SANDBOX_SCRIPT: {invalid}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
