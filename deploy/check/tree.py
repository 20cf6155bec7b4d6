"""The files that are checked, read from one folder, so that a test can check a changed copy."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# The same in C, where PyYAML was built with it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

__all__ = ["Tree", "image_problems", "seconds"]

# An official short name, and a tag: no registry's host in front, and not whatever is latest.
_IMAGE = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)?:(?!latest$)[A-Za-z0-9_.-]+")


@cache
def _parsed(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]


@dataclass(frozen=True)
class Tree:
    """The root of a checkout."""

    root: Path

    def text(self, path: str) -> str:
        """Return the text of a file."""
        return (self.root / path).read_text("utf-8")

    def documents(self, path: str) -> list[dict[str, Any]]:
        """Return the documents of a YAML file; they are not to be changed."""
        return _parsed(self.text(path))

    def variables(self, path: str) -> dict[str, str]:
        """Return what a file of NAME=value lines sets."""
        lines = [line.strip() for line in self.text(path).splitlines()]
        pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
        return {name: value for name, _, value in pairs}

    def has(self, path: str) -> bool:
        """Say whether there is such a file or folder."""
        return (self.root / path).exists()

    @property
    def version(self) -> str:
        """The version of the product."""
        version: str = tomllib.loads(self.text("pyproject.toml"))["project"]["version"]
        return version

    @property
    def processes(self) -> dict[str, list[str]]:
        """The commands of the Procfile, by the name of the process."""
        lines = [line.partition(":") for line in self.text("Procfile").splitlines() if line.strip()]
        return {name.strip(): command.split() for name, _, command in lines}


def image_problems(where: str, image: str, version: str) -> list[str]:
    """Return what is wrong with the name of an image; ours has the product's version as its tag."""
    if not _IMAGE.fullmatch(image):
        return [f"{where}: image {image} needs a short name and a fixed tag"]
    if image.startswith("paystate:") and image != f"paystate:{version}":
        return [f"{where}: image {image} is not of version {version}"]
    return []


def seconds(text: str | int) -> int:
    """Return a duration like 30s, 10min or 5 in seconds. Raises KeyError, ValueError."""
    digits = re.match(r"\d+", str(text))
    if digits is None:
        raise ValueError(text)
    unit = str(text)[digits.end() :]
    return int(digits[0]) * {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[unit]
