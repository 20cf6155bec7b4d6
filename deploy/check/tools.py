"""The tools that know better than we do, where they are installed: `deploy/debian-packages.txt`.

A tool that is missing is a skip, which is told, never a silent pass.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from deploy.check.kubernetes import KUSTOMIZATIONS, schema_problems
from deploy.check.tree import Tree

__all__ = ["TOOLS", "find", "make_nginx_folder"]

HANGS_S = 120
# Of what systemd counts from 0 (sealed) to 10 (everything open).
MOST_EXPOSED = 2.0


def find(tool: str) -> str | None:
    """Return where a tool is, if it is installed; servers are not on every user's path."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def _run(tool: str, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    """Run a tool and return its exit code and all that it said."""
    ended = subprocess.run(  # noqa: S603 - the tools named here, with arguments named here
        [find(tool) or tool, *arguments], cwd=cwd, capture_output=True, text=True,
        timeout=HANGS_S, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


def promtool(tree: Tree) -> list[str]:
    """Prometheus reads the rules and the configuration, and each alert fires in its case."""
    folder = tree.root / "deploy/prometheus"
    found = []
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ):
        code, said = _run("promtool", *arguments, cwd=folder)
        if code:
            found.append(f"promtool {' '.join(arguments)}: {said}")
    return found


def make_nginx_folder(tree: Tree, folder: Path, changes: dict[str, str]) -> Path:
    """Write an nginx configuration around our example into `folder`; return its path.

    The example is changed by `changes` (text by text) and given a certificate of its own. Raises
    OSError where there is no openssl, LookupError for a text that is not there.
    """
    _run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=pay.example.com",
         "-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem"))  # fmt: skip
    text = tree.text("deploy/nginx/paystate.conf")
    for old, new in {"/etc/paystate/tls": str(folder), **changes}.items():
        if old not in text:
            raise LookupError(old)
        text = text.replace(old, new)
    (folder / "paystate.conf").write_text(text)
    bodies = "\n".join(
        f"    {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"pid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{bodies}\n"
        f"    access_log off;\n    include {folder}/paystate.conf;\n}}\n"
    )
    return path


def nginx(tree: Tree) -> list[str]:
    """Nginx reads the example, without a word of warning."""
    with tempfile.TemporaryDirectory(prefix="ng") as name:
        folder = Path(name)
        # Ports that anybody may have.
        ports = {"listen 80;": "listen 127.0.0.1:58080;", "listen 443 ": "listen 127.0.0.1:58443 "}
        path = make_nginx_folder(tree, folder, ports)
        code, said = _run("nginx", "-t", "-p", str(folder), "-c", str(path))
        warned = [line for line in said.splitlines() if "[warn]" in line and '"user"' not in line]
        return [f"nginx -t: {said}"] if code or warned else []


def systemd_analyze(tree: Tree) -> list[str]:
    """Systemd knows every option of the units, and finds them sealed."""
    found = []
    for path in sorted((tree.root / "deploy/systemd").glob("*.service")):
        _, said = _run("systemd-analyze", "verify", "--man=no", "--generators=no", str(path))
        found += [
            f"systemd-analyze verify: {line}"
            for line in said.splitlines()
            # It is not installed on this machine.
            if path.name in line and "/opt/paystate/" not in line
        ]
        _, said = _run("systemd-analyze", "security", "--offline=true", "--no-pager", str(path))
        level = re.search(r"exposure level for \S+: ([\d.]+)", said)
        if level is None or float(level[1]) > MOST_EXPOSED:
            found.append(f"systemd-analyze security: {path.name}: {said[-200:]}")
    return found


def kubectl(tree: Tree) -> list[str]:
    """Kustomize can put the manifests together, and what comes out is valid too."""
    found = []
    for folder in KUSTOMIZATIONS:
        code, said = _run("kubectl", "kustomize", str(tree.root / folder))
        if code:
            found.append(f"kubectl kustomize {folder}: {said}")
            continue
        for manifest in yaml.safe_load_all(said):
            where = f"kubectl kustomize {folder}: {manifest['kind']}"
            found += [f"{where}: {p}" for p in schema_problems(manifest)]
            if f"paystate:{tree.version}" not in said:
                found.append(f"{where}: nothing runs our image")
    return found


TOOLS: dict[str, Callable[[Tree], list[str]]] = {
    "promtool": promtool,
    "nginx": nginx,
    "systemd-analyze": systemd_analyze,
    "kubectl": kubectl,
}
