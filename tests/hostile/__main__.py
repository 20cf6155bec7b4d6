"""``python -m tests.hostile --seconds 60 [--target NAME]``: look for inputs that break a reader.

Guided by coverage (atheris, libFuzzer), each target for so many seconds, beginning with the bodies
of the tests. Ends with 1 and the input if one breaks, with 0 if none did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# What a search is guided by; the rest of the package would only take time to prepare.
_GUIDES = [
    "paystate.flutterwave.exact",
    "paystate.flutterwave.fields",
    "paystate.flutterwave.objects",
    "paystate.flutterwave.payloads",
    "paystate.flutterwave.signatures",
    "paystate.changes",
    "paystate.connections",
    "paystate.settings",
    "paystate.updates",
    "webhook_server.access",
    "webhook_server.parameters",
]


def _search(name: str, options: list[str]) -> int:
    """Search in a process of its own, which libFuzzer ends; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        corpus.mkdir()
        found.mkdir()
        command = [sys.executable, "-m", "tests.hostile", "--inside", name, str(corpus)]
        options = [*options, f"-artifact_prefix={found}/", "-max_len=8192", "-verbosity=0"]
        code = subprocess.run([*command, *options], check=False).returncode
        for path in found.iterdir():
            print(f"{name}: {path.name}: {path.read_bytes()!r}")
    print(f"{name}: {'broken' if code else 'held'}", flush=True)
    return min(1, abs(code))


def _inside(name: str, corpus: str, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=_GUIDES):
        from tests.hostile.targets import TARGETS, seeds

    for number, seed in enumerate(seeds(name)):
        Path(corpus, str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], sys.argv[3], sys.argv[4:])
        return 0
    from tests.hostile.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--runs", type=int, help="inputs for each target, in place of seconds")
    parser.add_argument("--seed", type=int, default=0, help="the same search again; 0: another")
    parser.add_argument("--target", choices=list(TARGETS), help="one only")
    asked = parser.parse_args()
    limit = f"-runs={asked.runs}" if asked.runs else f"-max_total_time={asked.seconds}"
    names = [asked.target] if asked.target else [name for name in TARGETS if name != "everything"]
    return max(_search(name, [limit, f"-seed={asked.seed}"]) for name in names)


if __name__ == "__main__":
    sys.exit(main())
