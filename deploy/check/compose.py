"""The compose file: the processes would start with these settings, on servers that are there."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from deploy.check import product
from deploy.check.tree import Tree, image_problems, seconds
from paystate.settings import Role

__all__ = ["problems"]

COMPOSE = "deploy/compose.yaml"
EXAMPLE = "deploy/env.example"
DATASOURCE = "deploy/grafana/provisioning/datasources/prometheus.yaml"

Service = dict[str, Any]


def problems(tree: Tree) -> list[str]:
    """Return what is wrong with the compose file."""
    (compose,) = tree.documents(COMPOSE)
    found = []
    for name, service in compose["services"].items():
        where = f"{COMPOSE}: {name}"
        found += image_problems(where, service.get("image", "none"), tree.version)
        found += [f"{where}: {p}" for p in _references(tree, service, compose)]
        if service["image"].startswith("paystate:"):
            found += [f"{where}: {p}" for p in _ours(tree, name, service)]
            found += _environment(where, name, service, compose["services"])
    found += _servers(compose["services"])
    found += _asked_for(tree)
    return found + _watched(tree, compose["services"])


def _references(tree: Tree, service: Service, compose: dict[str, Any]) -> list[str]:
    found = []
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("./"):
            if not tree.has(f"deploy/{source[2:]}"):
                found.append(f"mounts {source}, which is not there")
        elif source not in compose["volumes"]:
            found.append(f"volume {source} is not declared")
    found += [f"no network {n}" for n in service["networks"] if n not in compose["networks"]]
    after = set(service.get("depends_on", []))
    found += [f"no service {n}" for n in sorted(after - compose["services"].keys())]
    build = service.get("build")
    if build and not tree.has("deploy/" + build["context"] + "/" + build["dockerfile"]):
        found.append(f"no file {build['dockerfile']}")
    return found


def _ours(tree: Tree, name: str, service: Service) -> list[str]:
    found = []
    process = {"migrate": "release"}.get(name, name)
    if service["command"] != tree.processes.get(process):
        found.append("its command is not that of the Procfile")
    hardened = (
        service.get("read_only") is True
        and service.get("cap_drop") == ["ALL"]
        and "no-new-privileges:true" in service.get("security_opt", [])
    )
    if not hardened:
        found.append("read_only, cap_drop and no-new-privileges are missing")
    if name in product.MODULES:
        grace_s = int(service["environment"].get("STOP_GRACE_S", product.default("STOP_GRACE_S")))
        needed_s = product.stop_s(name, grace_s)
        if seconds(service["stop_grace_period"]) <= needed_s:
            found.append(f"stop_grace_period must be above {needed_s:g} s")
        variable = {"web": "PORT", "worker": "WORKER_PORT"}[name]
        if service["healthcheck"]["test"] != ["CMD", "python", "healthcheck.py", variable]:
            found.append(f"its health is not asked at {variable}")
    return found


def _environment(
    where: str, name: str, service: Service, services: dict[str, Service]
) -> list[str]:
    environ = {
        variable: re.sub(r"\$\{[^}]*\}", "interpolated", str(value))
        for variable, value in service["environment"].items()
    }
    role = product.MODULES[name][1] if name in product.MODULES else Role.TOOL
    # The credentials of v4 go together, and are both empty or both set.
    found = product.setting_problems(where, {"HOST": "0.0.0.0", **environ}, role)  # noqa: S104
    for variable in ("DATABASE_URL", "CACHE_URL", "QUEUE_URL"):
        host = urlsplit(environ.get(variable, "")).hostname
        if host is None:
            found.append(f"{where}: {variable} is not set")
        elif host not in services:
            found.append(f"{where}: {variable} leads to {host}, which is no service")
        elif not set(services[host]["networks"]) & set(service["networks"]):
            found.append(f"{where}: shares no network with {host}")
    port = environ.get("PORT", str(product.default("PORT")))
    if name == "web" and service["ports"] != [f"127.0.0.1:{port}:{port}"]:
        found.append(f"{where}: publishes another port than {port}, or beyond loopback")
    return found


def _servers(services: dict[str, Service]) -> list[str]:
    found = [
        f"{COMPOSE}: postgres without {option} could lose what was acknowledged"
        for option in ("synchronous_commit=on", "fsync=on", "full_page_writes=on")
        if option not in services["postgres"]["command"]
    ]
    for name, service in services.items():
        if service["image"].startswith(("postgres:", "valkey/")) and service.get("ports"):
            found.append(f"{COMPOSE}: {name} must not be published")
    return found


def _asked_for(tree: Tree) -> list[str]:
    asked = set(re.findall(r"\$\{([A-Z_]+)", tree.text(COMPOSE)))
    given = set(tree.variables(EXAMPLE))
    return [f"{COMPOSE}: {name} is not in {EXAMPLE}" for name in sorted(asked - given)] + [
        f"{EXAMPLE}: nobody asks for {name}" for name in sorted(given - asked)
    ]


def _watched(tree: Tree, services: dict[str, Service]) -> list[str]:
    """Prometheus finds the processes at their ports, and Grafana finds Prometheus."""
    found = []
    (config,) = tree.documents("deploy/prometheus/prometheus.yml")
    for job in config["scrape_configs"]:
        for lookup in job["dns_sd_configs"]:
            for name in lookup["names"]:
                variable = {"web": "PORT", "worker": "WORKER_PORT"}.get(name)
                port = services.get(name, {}).get("environment", {}).get(variable)
                if str(port) != str(lookup["port"]):
                    found.append(f"prometheus.yml: {name} is not at port {lookup['port']}")
    rules = [path for path in config["rule_files"] if not tree.has(f"deploy/prometheus/{path}")]
    found += [f"prometheus.yml: no file {path}" for path in rules]
    (source,) = tree.documents(DATASOURCE)
    urls = [each["url"] for each in source["datasources"]]
    lost = [url for url in urls if urlsplit(url).hostname not in services]
    return found + [f"{DATASOURCE}: {url} is no service" for url in lost]
