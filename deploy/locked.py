"""Print the part of `requirements.lock` that some packages need, hashes included.

`python deploy/locked.py` prints what the server needs; `python deploy/locked.py hatchling` what
hatchling needs. The lock file holds the development tools too, which have no place in an image, and
pip takes no hashes from a constraints file. A package that were left out by mistake would end the
build: with `--require-hashes` pip installs nothing that is not in the list.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def canonical(name: str) -> str:
    """Return a package's name as the lock file spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(lock: str) -> dict[str, str]:
    """Return the text of each package in a lock file, by its name."""
    found: dict[str, str] = {}
    for text in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        found[re.split(r"[=\[ ]", text, maxsplit=1)[0]] = text
    return found


def needed(lock: str, names: Iterable[str]) -> str:
    """Return the part of `lock` for `names` and all that they need. Raises KeyError."""
    texts = blocks(lock)
    needs: dict[str, set[str]] = {name: set() for name in texts}
    for name, text in texts.items():
        # Each block ends in the names of those that need it.
        for user in re.findall(r"^ +#(?: via)? +([a-z0-9-]+)$", text, flags=re.MULTILINE):
            needs.setdefault(user, set()).add(name)
    kept: set[str] = set()
    waiting = [canonical(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting.extend(needs[name])
    return "\n".join(texts[name] for name in sorted(kept)) + "\n"


def server_packages(pyproject: str) -> list[str]:
    """Return the names of the packages that the project and its extra `server` ask for."""
    project = tomllib.loads(pyproject)["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in asked]


if __name__ == "__main__":
    wanted = sys.argv[1:] or server_packages((ROOT / "pyproject.toml").read_text("utf-8"))
    sys.stdout.write(needed((ROOT / "requirements.lock").read_text("utf-8"), wanted))
