"""Where a process finds its servers and is found itself, and how long it waits for them."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.settings.setting import setting
from paystate.values import base_address, database_address, log_level, redis_address_of, whole

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)


@dataclass(frozen=True, repr=False)
class Places:
    """Settings of places."""

    database_url: str = setting(
        "DATABASE_URL",
        "sqlite:///.paystate/paystate.db",
        "System of record: sqlite:///path (one host) or postgresql://user:pass@host/name. It must "
        "be the primary; a replica would answer with the past. TLS: "
        "?sslmode=verify-full&sslrootcert=FILE. Behind PgBouncer or another pooler in transaction "
        "mode: ?pooler=transaction.",
        parse=database_address,
        secret=True,
    )
    database_pool: int = setting(
        "DATABASE_POOL", 10, "Connections to the database in each process.", parse=whole(1, 200)
    )
    database_timeout_s: int = setting(
        "DATABASE_TIMEOUT_S",
        5,
        "Longest wait for one statement, or for a connection, in seconds. Past it the answer is "
        "503, never a guess.",
        parse=whole(1, 60),
    )
    database_pace_ms: int = setting(
        "DATABASE_PACE_MS",
        10,
        "Least time between two of a process's queries for statuses, in milliseconds; what is "
        "asked for meanwhile goes into the next one. Higher spares the database and makes busy "
        "lookups of unsettled payments wait that long; 0 sends the next when one is answered.",
        parse=whole(0, 1000),
    )
    cache_url: str = setting(
        "CACHE_URL",
        "redis://127.0.0.1:6379/0",
        "Redis or Valkey that holds the statuses: redis://host:port/db, "
        "redis+sentinel://host:port,host:port/name or redis+cluster://host:port,host:port, and "
        "rediss for TLS. It may lose anything at any time.",
        parse=redis_address_of(*REDIS_SCHEMES),
        secret=True,
    )
    cache_timeout_ms: int = setting(
        "CACHE_TIMEOUT_MS",
        500,
        "Longest wait for the cache, in milliseconds, before the database answers instead.",
        parse=whole(10, 30_000),
    )
    queue_url: str = setting(
        "QUEUE_URL",
        "",
        "Redis or Valkey that holds the arq queue; no cluster. Empty: CACHE_URL, where that is no "
        "cluster.",
        parse=redis_address_of("redis", "rediss", "redis+sentinel", "rediss+sentinel"),
        secret=True,
    )
    host: str = setting("HOST", "127.0.0.1", "Address the web process binds to.")
    port: int = setting(
        "PORT", 8080, "Port of the web process; 0 takes a free one.", parse=whole(0, 65535)
    )
    web_processes: int = setting(
        "WEB_PROCESSES",
        1,
        "Web processes on PORT (Linux), each with its own DATABASE_POOL and near cache; /metrics "
        "of any gives the sums. One for each core that the web may have: more only take turns.",
        parse=whole(1, 256),
    )
    worker_port: int = setting(
        "WORKER_PORT",
        8081,
        "Port of the worker's health and metrics; 0 takes a free one.",
        parse=whole(0, 65535),
    )
    worker_jobs: int = setting(
        "WORKER_JOBS",
        32,
        "Jobs one worker runs at once; each holds up to 200 events.",
        parse=whole(1, 1000),
    )
    stop_grace_s: int = setting(
        "STOP_GRACE_S",
        15,
        "How long a stopping process lets work in hand finish, in seconds; keep the platform's "
        "kill timeout above it.",
        parse=whole(1, 300),
    )
    log_level: str = setting("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.", parse=log_level)
    log_format: str = setting(
        "LOG_FORMAT", "auto", "json, console, or auto: console on a terminal, else json."
    )
    otlp_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "Where traces of events go, by OTLP over HTTP, as in http://collector:4318; needs the "
        "extra otel. Other OTEL_ variables (service name, sampler, headers) are "
        "OpenTelemetry's own. Empty: no traces, at no cost.",
        parse=base_address,
    )
