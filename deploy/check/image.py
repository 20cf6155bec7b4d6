"""The Dockerfile: two stages, nobody's root, what it copies is there and reaches the builder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from deploy.check import product
from deploy.check.tree import Tree, image_problems

__all__ = ["problems"]

DOCKERFILE = "deploy/Dockerfile"
IGNORED = "deploy/Dockerfile.dockerignore"
HEALTHCHECK = "deploy/healthcheck.py"
# Of Python and pip; whatever else is set must be a setting.
_FOREIGN = re.compile(r"PATH|PYTHON[A-Z]+|PIP_[A-Z_]+")


@dataclass
class Stage:
    """One stage: its name, what it is made from, and its instructions in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        """Return the arguments of each such instruction."""
        return [argument for name, argument in self.steps if name == instruction]


def stages(text: str) -> list[Stage]:
    """Return the stages of a Dockerfile."""
    found: list[Stage] = []
    plain = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", plain).splitlines():
        instruction, _, argument = line.strip().partition(" ")
        if instruction.upper() == "FROM":
            base, _, name = argument.partition(" AS ")
            found.append(Stage(name.strip(), base.strip()))
        elif instruction and found:
            found[-1].steps.append((instruction.upper(), " ".join(argument.split())))
    return found


def problems(tree: Tree) -> list[str]:
    """Return what is wrong with the image."""
    built = stages(tree.text(DOCKERFILE))
    if len(built) < 2:
        return [f"{DOCKERFILE}: the tools of the build belong into a stage of their own"]
    found = [p for stage in built for p in image_problems(DOCKERFILE, stage.base, tree.version)]
    found += [p for stage in built for p in _copies(tree, stage, built)]
    found += [f"{DOCKERFILE}: {p}" for p in _run(tree, built[-1])]
    return found + _environment(built[-1]) + _healthcheck(tree)


def _copies(tree: Tree, stage: Stage, built: list[Stage]) -> list[str]:
    found = []
    let_through = {line[1:] for line in tree.text(IGNORED).splitlines() if line.startswith("!")}
    for argument in stage.of("COPY"):
        words = argument.split()
        sender = next((w.partition("=")[2] for w in words if w.startswith("--from=")), None)
        sources = [w for w in words if not w.startswith("--")][:-1]
        if sender is not None:
            made = [" ".join(a for _, a in s.steps) for s in built if s.name == sender]
            if not made or not all(source in made[0] for source in sources):
                found.append(f"{DOCKERFILE}: no stage {sender} that makes {' '.join(sources)}")
            continue
        found += [f"{DOCKERFILE}: there is no {s} to copy" for s in sources if not tree.has(s)]
        missing = [s for s in sources if s not in let_through | {"deploy/"}]
        found += [f"{IGNORED}: keeps {s} from the Dockerfile" for s in missing]
    return found


def _run(tree: Tree, stage: Stage) -> list[str]:
    found = []
    users = [n for n, (name, _) in enumerate(stage.steps) if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", stage.steps[users[-1]][1]):
        found.append("USER must be a number above 0: Kubernetes cannot tell a name from root")
    if len(stage.of("HEALTHCHECK")) != 1:
        found.append("HEALTHCHECK is missing")
    if any(name == "ADD" for name, _ in stage.steps):
        found.append("ADD fetches and unpacks; use COPY")
    exposed = {int(port) for argument in stage.of("EXPOSE") for port in argument.split()}
    ports = {product.default("PORT"), product.default("WORKER_PORT")}
    if exposed != ports:
        found.append(f"EXPOSE {exposed} are not the ports of the settings, {ports}")
    commands = stage.of("CMD")
    if not commands or json.loads(commands[-1]) != tree.processes["web"]:
        found.append("CMD is not the web process of the Procfile, as a list")
    return found


def _environment(stage: Stage) -> list[str]:
    names = [n for a in stage.of("ENV") for n in re.findall(r"([A-Z_]+)=", a)]
    return [
        f"{DOCKERFILE}: ENV {name} is no setting"
        for name in names
        if name not in product.settings() and not _FOREIGN.fullmatch(name)
    ]


def _healthcheck(tree: Tree) -> list[str]:
    ports = re.findall(r'"([A-Z_]+)": (\d+)', tree.text(HEALTHCHECK))
    found = [
        f"{HEALTHCHECK}: {name} is not {port} by default"
        for name, port in ports
        if product.settings().get(name) != int(port)
    ]
    if "/healthz" not in product.routes() or '"/healthz"' not in tree.text(HEALTHCHECK):
        found.append(f"{HEALTHCHECK}: asks a path that is no route")
    return found
