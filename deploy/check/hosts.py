"""What runs on a plain host: the systemd units, the nginx example, and Valkey's files."""

from __future__ import annotations

import re

from deploy.check import product
from deploy.check.tree import Tree, seconds
from paystate.settings import Role

__all__ = ["problems"]

UNITS = {"web": "web", "worker": "worker", "migrate": "release"}
EXAMPLE = "deploy/systemd/paystate.env.example"
NGINX = "deploy/nginx/paystate.conf"
PREFIX = "/opt/paystate/.venv/bin/"
# Without these a unit is not hardened.
HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "EnvironmentFile": "/etc/paystate/paystate.env",
}


def problems(tree: Tree) -> list[str]:
    """Return what is wrong with units, nginx and Valkey."""
    found = [p for name in UNITS for p in _unit(tree, name)]
    environ = tree.variables(EXAMPLE)
    filled = {name: value or "secret" for name, value in environ.items()}
    for role in Role:
        found += product.setting_problems(EXAMPLE, filled, role)
    return found + _nginx(tree, environ) + _valkey(tree)


def _unit(tree: Tree, name: str) -> list[str]:
    where = f"deploy/systemd/paystate-{name}.service"
    text = tree.text(where)
    lines = re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE)
    options = dict(lines)
    found = [
        f"{where}: {option}={value} is missing"
        for option, value in HARDENED.items()
        if (option, value) not in lines
    ]
    command = [PREFIX + tree.processes[UNITS[name]][0], *tree.processes[UNITS[name]][1:]]
    if options["ExecStart"].split() != command:
        found.append(f"{where}: its command is not that of the Procfile")
    found += [
        f"{where}: {other} is not there, or not waited for"
        for other in re.findall(r"paystate-\w+\.service", options.get("Requires", ""))
        if not tree.has(f"deploy/systemd/{other}") or other not in options["After"]
    ]
    if name in product.MODULES:
        if options.get("Restart") != "always":
            found.append(f"{where}: Restart=always is missing")
        grace_s = int(tree.variables(EXAMPLE)["STOP_GRACE_S"])
        if seconds(options["TimeoutStopSec"]) <= product.stop_s(name, grace_s):
            found.append(f"{where}: TimeoutStopSec must be above {product.stop_s(name, grace_s):g}")
    return found


def _nginx(tree: Tree, environ: dict[str, str]) -> list[str]:
    text = re.sub(r"#.*", "", tree.text(NGINX))
    port = environ["PORT"]
    said = {
        f"client_max_body_size {product.default('MAX_BODY_BYTES')};": "as the settings say",
        f"server 127.0.0.1:{port} ": "the web process's port",
        "client_header_timeout ": "half a head must not hold a connection",
        "client_body_timeout ": "nor half a body",
        "proxy_http_version 1.1;": "connections are kept",
        'proxy_set_header Connection "";': "connections are kept",
        "limit_conn ": "an address has so many connections and no more",
    }
    found = [f"{NGINX}: no {line!r}: {why}" for line, why in said.items() if line not in text]
    streams = next((b for b in _locations(text) if "proxy_buffering off;" in b[1]), ("", ""))
    found += [
        f"{NGINX}: {route} would be held back"
        for route in product.routes()
        if re.fullmatch(r"/api/(payments/.+/events|changes)", route)
        if not streams[0] or not re.search(streams[0], re.sub(r"\{\w+\}", "x", route))
    ]
    if re.search(r"proxy_pass http://\w+/", text):
        found.append(f"{NGINX}: with a path behind it, proxy_pass rewrites %2F")
    return found


def _locations(text: str) -> list[tuple[str, str]]:
    """Return the patterns of the locations with their contents."""
    return re.findall(r"location ~ (\S+) \{([^}]*)\}", text)


def _valkey(tree: Tree) -> list[str]:
    wanted = {
        "queue": {"maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"},
        "cache": {"maxmemory-policy allkeys-lru"},
    }
    found = []
    for name, lines in wanted.items():
        where = f"deploy/valkey-{name}.conf"
        have = {line.strip() for line in tree.text(where).splitlines()}
        found += [f"{where}: {line} is missing" for line in lines - have]
        if not any(re.fullmatch(r"maxmemory [1-9]\d*[mg]b", line) for line in have):
            found.append(f"{where}: without maxmemory it grows until the kernel ends it")
        if any(line.startswith("protected-mode no") for line in have):
            found.append(f"{where}: on a plain host that opens it to everybody")
    return found
