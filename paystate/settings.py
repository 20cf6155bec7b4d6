"""Every setting of every process: its name, unit, default, and what goes wrong at the extremes.

Settings come from environment variables and are read once. All problems are reported together, so
that nobody mends them one restart at a time. Secrets are mute: `repr`, logs and `paystate config`
show that they are set, never what they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from paystate.errors import SettingsInvalid
from paystate.keys import DEFAULT_MERCHANT
from paystate.merchants import (
    ApiVersion,
    Confirm,
    Merchant,
    api_version,
    confirm,
    further_merchants,
    shared_tokens,
)
from paystate.ttl import TtlPolicy
from paystate.values import (
    Unusable,
    base_address,
    database_address,
    log_level,
    mask_url,
    redis_address_of,
    secret,
    secrets,
    whole,
)

__all__ = ["Role", "Settings", "describe", "load"]


class Role(StrEnum):
    """What a process is, which decides the settings it cannot start without."""

    WEB = "web"
    WORKER = "worker"
    TOOL = "tool"


def _setting(
    env: str, default: Any, doc: str, *, parse: Callable[[str], Any] = str, secret: bool = False
) -> Any:
    return field(
        default=default, metadata={"env": env, "doc": doc, "parse": parse, "secret": secret}
    )


REDIS_SCHEMES = (
    "redis",
    "rediss",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process. Durations carry their unit in the name."""

    database_url: str = _setting(
        "DATABASE_URL",
        "sqlite:///.paystate/paystate.db",
        "System of record: sqlite:///path (one host) or postgresql://user:pass@host/name. It must "
        "be the primary; a replica would answer with the past. TLS: "
        "?sslmode=verify-full&sslrootcert=FILE. Behind PgBouncer or another pooler in transaction "
        "mode: ?pooler=transaction.",
        parse=database_address,
        secret=True,
    )
    cache_url: str = _setting(
        "CACHE_URL",
        "redis://127.0.0.1:6379/0",
        "Redis or Valkey that holds the statuses: redis://host:port/db, "
        "redis+sentinel://host:port,host:port/name or redis+cluster://host:port,host:port, and "
        "rediss for TLS. It may lose anything at any time.",
        parse=redis_address_of(*REDIS_SCHEMES),
        secret=True,
    )
    queue_url: str = _setting(
        "QUEUE_URL",
        "",
        "Redis or Valkey that holds the arq queue; no cluster. Empty: CACHE_URL, where that is no "
        "cluster.",
        parse=redis_address_of("redis", "rediss", "redis+sentinel", "rediss+sentinel"),
        secret=True,
    )
    secret_hashes: tuple[str, ...] = _setting(
        "FLW_SECRET_HASH",
        (),
        "The webhook secret of Flutterwave's dashboard. Two, separated by a comma, while you "
        "rotate it. The web process does not start without one.",
        parse=secrets,
        secret=True,
    )
    secret_key: str | None = _setting(
        "FLW_SECRET_KEY", None, "v3 secret key for the verify API.", parse=secret, secret=True
    )
    client_id: str | None = _setting("FLW_CLIENT_ID", None, "v4 OAuth client id.", parse=secret)
    client_secret: str | None = _setting(
        "FLW_CLIENT_SECRET", None, "v4 OAuth client secret.", parse=secret, secret=True
    )
    base_url: str = _setting(
        "FLW_BASE_URL",
        "https://api.flutterwave.com/v3",
        "Base of the v3 API.",
        parse=base_address,
    )
    v4_base_url: str = _setting(
        "FLW_V4_BASE_URL",
        "https://f4bexperience.flutterwave.com",
        "Base of the v4 API; its sandbox is https://developersandbox-api.flutterwave.com.",
        parse=base_address,
    )
    token_url: str = _setting(
        "FLW_TOKEN_URL",
        "https://idp.flutterwave.com/realms/flutterwave/protocol/openid-connect/token",
        "Where v4 access tokens come from.",
        parse=base_address,
    )
    confirm: Confirm = _setting(
        "CONFIRM",
        Confirm.ALWAYS,
        "Which webhooks the verify API must confirm where credentials are set: always, v3 (trust "
        "signed v4 bodies) or never (whoever saw one v3 webhook can forge the next).",
        parse=confirm,
    )
    api: ApiVersion = _setting(
        "FLW_API",
        ApiVersion.ANY,
        "Which of Flutterwave's APIs the account has: any, v3 or v4. With v4, webhooks signed as "
        "v3's are refused: whoever has seen one of those knows the secret.",
        parse=api_version,
    )
    api_tokens: tuple[str, ...] = _setting(
        "API_TOKENS",
        (),
        "Bearer tokens of the API, separated by commas: TOKEN may do everything, "
        "NAME:MERCHANT:read=TOKEN or NAME:MERCHANT:operate=TOKEN less. Without one the server "
        "binds to loopback only.",
        parse=secrets,
        secret=True,
    )
    api_calls_per_minute: int = _setting(
        "API_CALLS_PER_MINUTE",
        0,
        "Calls of the API that each token may make in a minute, over all processes; then 429. Too "
        "low and a busy page of yours is refused. 0 is no limit.",
        parse=whole(0, 10_000_000),
    )
    link_keys: tuple[str, ...] = _setting(
        "LINK_KEY",
        (),
        "Signs the links of customers' pages. Several, separated by commas, while you rotate it: "
        "the first one signs, links of the others are good until they expire. Without one there "
        "are no links.",
        parse=secrets,
        secret=True,
    )
    link_ttl_s: int = _setting(
        "LINK_TTL_S",
        3600,
        "How long a customer's link is good, in seconds, where its maker does not say. Who has it "
        "sees the payment's status and nothing else. Lower, and a slow customer is sent back to "
        "the shop; higher, and a link that was passed on shows the status that long.",
        parse=whole(60, 604_800),
    )
    public_url: str = _setting(
        "PUBLIC_URL",
        "",
        "Address under which customers reach the web process, for their links: "
        "https://pay.example.com. Empty: the one at which the link was asked for.",
        parse=base_address,
    )
    host: str = _setting("HOST", "127.0.0.1", "Address the web process binds to.")
    port: int = _setting(
        "PORT", 8080, "Port of the web process; 0 takes a free one.", parse=whole(0, 65535)
    )
    web_processes: int = _setting(
        "WEB_PROCESSES",
        1,
        "Web processes on PORT (Linux), each with its own DATABASE_POOL and near cache; /metrics "
        "of any gives the sums. One for each core that the web may have: more only take turns.",
        parse=whole(1, 256),
    )
    worker_port: int = _setting(
        "WORKER_PORT",
        8081,
        "Port of the worker's health and metrics; 0 takes a free one.",
        parse=whole(0, 65535),
    )
    pending_lease_ms: int | None = _setting(
        "PENDING_LEASE_MS",
        None,
        "How long a status that is not final may be served from the cache after it was proven. "
        "Default 1000 with one primary, 0 (strict: only `successful` is served from the cache) "
        "with Cluster or Sentinel. It bounds how old a pending can be after a split brain, and "
        "must be far shorter than a restart of the cache takes. Webhooks and the worker wait one "
        "and a half leases where the cache is away, so it is 5000 at most.",
        parse=whole(0, 5000),
    )
    log_level: str = _setting(
        "LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.", parse=log_level
    )
    log_format: str = _setting(
        "LOG_FORMAT", "auto", "json, console, or auto: console on a terminal, else json."
    )
    otlp_endpoint: str = _setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "Where traces of events go, by OTLP over HTTP, as in http://collector:4318; needs the "
        "extra otel. Other OTEL_ variables (service name, sampler, headers) are "
        "OpenTelemetry's own. Empty: no traces, at no cost.",
        parse=base_address,
    )
    merchants_file: str | None = _setting(
        "MERCHANTS_FILE",
        None,
        "TOML file with one table for each further merchant: secret_hash, secret_key, client_id, "
        "client_secret, confirm, api, tokens, budgets and addresses (docs/merchants.md); a value "
        "env:NAME is read from the environment. What changes in it is in force two seconds later.",
    )
    max_body_bytes: int = _setting(
        "MAX_BODY_BYTES",
        256 * 1024,
        "Largest webhook body, in bytes. Flutterwave's are below 10 KiB; a larger limit lets "
        "anyone make the process hold that much before the signature is checked.",
        parse=whole(1024, 16 * 1024 * 1024),
    )
    provider_calls_per_hour: int = _setting(
        "PROVIDER_CALLS_PER_HOUR",
        15_000,
        "Budget of calls to Flutterwave for each merchant and hour, shared by all processes. The "
        "published limit is 300 a minute, then half an hour of silence.",
        parse=whole(1, 10_000_000),
    )
    provider_calls_per_minute: int = _setting(
        "PROVIDER_CALLS_PER_MINUTE",
        0,
        "Calls to Flutterwave in any minute, for each merchant; a seventh of them in ten seconds. "
        "Too low makes bursts of webhooks wait, too high runs into the published limit. 0: 300, or "
        "a fiftieth of PROVIDER_CALLS_PER_HOUR if that is more.",
        parse=whole(0, 1_000_000),
    )
    provider_timeout_s: int = _setting(
        "PROVIDER_TIMEOUT_S",
        8,
        "Longest wait for one answer of Flutterwave, in seconds, further tries included; below the "
        "10 s of a job, and far below the 28 s after which Flutterwave itself gives up.",
        parse=whole(1, 9),
    )
    pending_recheck_s: int = _setting(
        "PENDING_RECHECK_S",
        60,
        "A payment that is asked for and has been pending this long is checked with Flutterwave, "
        "at most once in this time. Lower spends the budget, higher waits longer for a webhook "
        "that was lost.",
        parse=whole(5, 86_400),
    )
    near_size: int = _setting(
        "NEAR_SIZE",
        100_000,
        "Successful answers that each web process keeps in itself, for 30 s at most and only while "
        "it hears of changes; about 1 kB each. 0 asks the cache for every one.",
        parse=whole(0, 10_000_000),
    )
    not_found_s: int = _setting(
        "NOT_FOUND_S",
        120,
        "How long 'not found' at Flutterwave is believed, in seconds.",
        parse=whole(1, 86_400),
    )
    cache_timeout_ms: int = _setting(
        "CACHE_TIMEOUT_MS",
        500,
        "Longest wait for the cache, in milliseconds, before the database answers instead.",
        parse=whole(10, 30_000),
    )
    database_pool: int = _setting(
        "DATABASE_POOL", 10, "Connections to the database in each process.", parse=whole(1, 200)
    )
    database_timeout_s: int = _setting(
        "DATABASE_TIMEOUT_S",
        5,
        "Longest wait for one statement, or for a connection, in seconds. Past it the answer is "
        "503, never a guess.",
        parse=whole(1, 60),
    )
    database_pace_ms: int = _setting(
        "DATABASE_PACE_MS",
        10,
        "Least time between two of a process's queries for statuses, in milliseconds; what is "
        "asked for meanwhile goes into the next one. Higher spares the database and makes busy "
        "lookups of unsettled payments wait that long; 0 sends the next when one is answered.",
        parse=whole(0, 1000),
    )
    ttl_terminal_s: int = _setting(
        "TTL_TERMINAL_S",
        86_400,
        "Kept in the cache once successful, failed or voided, in seconds.",
        parse=whole(1, 31_536_000),
    )
    ttl_pending_s: int = _setting(
        "TTL_PENDING_S", 300, "Kept while pending, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_processing_s: int = _setting(
        "TTL_PROCESSING_S", 60, "Kept while processing, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_unknown_s: int = _setting(
        "TTL_UNKNOWN_S", 120, "Kept while unknown, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_customer_active_s: int = _setting(
        "TTL_CUSTOMER_ACTIVE_S",
        1800,
        "How long a customer's profile is kept in the cache if they paid within the hour, in "
        "seconds. Whatever is kept, a payment's news makes it worthless; longer spares Flutterwave "
        "questions and keeps e-mail and phone in the cache for longer.",
        parse=whole(1, 31_536_000),
    )
    ttl_customer_recent_s: int = _setting(
        "TTL_CUSTOMER_RECENT_S",
        7200,
        "The same if they paid within the day, in seconds.",
        parse=whole(1, 31_536_000),
    )
    ttl_customer_s: int = _setting(
        "TTL_CUSTOMER_S", 21_600, "The same if not, in seconds.", parse=whole(1, 31_536_000)
    )
    ttl_history_s: int = _setting(
        "TTL_HISTORY_S",
        900,
        "How long a page of a customer's payments is kept, in seconds. It holds no status.",
        parse=whole(1, 31_536_000),
    )
    worker_jobs: int = _setting(
        "WORKER_JOBS",
        32,
        "Jobs one worker runs at once; each holds up to 200 events.",
        parse=whole(1, 1000),
    )
    audit_changes_per_s: int = _setting(
        "AUDIT_CHANGES_PER_S",
        2,
        "Changes a second that each worker's audit follows: looked up again 10 ms, 100 ms, 1 s and "
        "60 s after the news, four lookups and four to eight queries for each. More gives more "
        "nines sooner and costs that much; 0 follows none.",
        parse=whole(0, 100),
    )
    audit_round_s: int = _setting(
        "AUDIT_ROUND_S",
        10,
        "Seconds between the rounds of each worker's audit. A round costs about eleven queries and "
        "two or three round trips to the cache, whatever is going on.",
        parse=whole(1, 3600),
    )
    audit_sample: int = _setting(
        "AUDIT_SAMPLE",
        100,
        "Cached entries, and rows of the database, compared in each round. All of them have been "
        "gone through after their number / AUDIT_SAMPLE rounds: lower finds a fault later, higher "
        "costs a command for each entry. 0 compares none.",
        parse=whole(0, 5000),
    )
    audit_provider_calls_per_hour: int = _setting(
        "AUDIT_PROVIDER_CALLS_PER_HOUR",
        10,
        "Settled payments an hour about which each worker's audit asks Flutterwave whether it says "
        "the same, out of PROVIDER_CALLS_PER_HOUR and only while 60 % of that are left. 0 asks "
        "about none.",
        parse=whole(0, 3600),
    )
    audit_url: str = _setting(
        "AUDIT_URL",
        "",
        "Web process that the audit asks, as customers do: http://host:port. Empty: the audit runs "
        "the same code in its own process, and does not see what stands before the web processes.",
        parse=base_address,
    )
    audit_token: str | None = _setting(
        "AUDIT_TOKEN",
        None,
        "Bearer token for AUDIT_URL; one that may read every merchant.",
        parse=secret,
        secret=True,
    )
    reconcile_every_s: int = _setting(
        "RECONCILE_EVERY_S",
        60,
        "Seconds between the passes of each worker's reconciler, which asks about what is "
        "unsettled and reads Flutterwave's lists. A pass with nothing due costs a handful of "
        "queries. 0 turns it off: then a payment whose webhooks were lost settles when somebody "
        "looks it up.",
        parse=whole(0, 86_400),
    )
    reconcile_after_s: int = _setting(
        "RECONCILE_AFTER_S",
        120,
        "Age in seconds at which an unsettled payment is first asked about; after that the gaps "
        "double. Lower finds lost webhooks sooner, and spends calls on payments that customers are "
        "still making.",
        parse=whole(0, 86_400),
    )
    reconcile_silence_s: int = _setting(
        "RECONCILE_SILENCE_S",
        259_200,
        "Age in seconds at which what has still not settled is flagged for a person; what "
        "Flutterwave knows nothing of becomes unknown then, never failed.",
        parse=whole(60, 31_536_000),
    )
    reconcile_list_every_s: int = _setting(
        "RECONCILE_LIST_EVERY_S",
        300,
        "Seconds between two readings of each merchant's list of transactions, which finds "
        "payments of which no webhook ever came. A reading costs a call for every ten payments or "
        "so that were made since the last, and one at least.",
        parse=whole(10, 86_400),
    )
    reconcile_list_back_s: int = _setting(
        "RECONCILE_LIST_BACK_S",
        86_400,
        "How far back, in seconds, the very first reading of a list goes.",
        parse=whole(0, 31_536_000),
    )
    inbox_keep_days: int = _setting(
        "INBOX_KEEP_DAYS",
        90,
        "Days for which what an event said is kept after its arrival, once it has ended; then its "
        "row stays, without it. Too low: `paystate explain` cannot say what came. Too high: the "
        "inbox grows by about 1 kB for each webhook. 0 keeps all.",
        parse=whole(0, 36_500),
    )
    event_keys_keep_days: int = _setting(
        "EVENT_KEYS_KEEP_DAYS",
        400,
        "Days after which the row of an ended event goes too, and with it its key. Too low: a "
        "delivery that comes later still counts as new, and costs a question to Flutterwave. Too "
        "high: about 300 bytes for each webhook. 0 keeps all; else at least INBOX_KEEP_DAYS.",
        parse=whole(0, 36_500),
    )
    changes_keep_days: int = _setting(
        "CHANGES_KEEP_DAYS",
        90,
        "Days for which the change log goes back. Too low: a subscriber that was away longer gets "
        "410 and has to read all statuses anew. Too high: the log grows by about 300 bytes for "
        "each change. 0 keeps all.",
        parse=whole(0, 36_500),
    )
    stop_grace_s: int = _setting(
        "STOP_GRACE_S",
        15,
        "How long a stopping process lets work in hand finish, in seconds; keep the platform's "
        "kill timeout above it.",
        parse=whole(1, 300),
    )
    merchants: Mapping[str, Merchant] = field(default_factory=dict)

    @property
    def is_redundant_cache(self) -> bool:
        """Say whether the cache fails over, so that acknowledged writes can be forgotten."""
        return "+cluster://" in self.cache_url or "+sentinel://" in self.cache_url

    @property
    def lease_ms(self) -> int:
        """The lease in force, in milliseconds; 0 is the strict mode."""
        if self.pending_lease_ms is not None:
            return self.pending_lease_ms
        return 0 if self.is_redundant_cache else 1000

    @property
    def queue(self) -> str:
        """The URL of the queue in force."""
        return self.queue_url or self.cache_url

    @property
    def ttl(self) -> TtlPolicy:
        """How long the cache keeps what it knows."""
        return TtlPolicy(
            terminal_s=self.ttl_terminal_s,
            pending_s=self.ttl_pending_s,
            processing_s=self.ttl_processing_s,
            unknown_s=self.ttl_unknown_s,
            customer_active_s=self.ttl_customer_active_s,
            customer_recent_s=self.ttl_customer_recent_s,
            customer_s=self.ttl_customer_s,
            history_s=self.ttl_history_s,
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value, _ in describe(self))
        return f"Settings({shown})"


def _shown(spec: Field[Any], value: Any) -> str:
    if value in (None, "", ()):
        return ""
    if spec.name.endswith("_url"):
        return mask_url(str(value))
    if spec.metadata["secret"]:
        return f"(set, {len(value)})" if isinstance(value, tuple) else "(set)"
    return str(value)


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (variable, value, meaning) of every setting, secrets masked."""
    return [
        (spec.metadata["env"], _shown(spec, getattr(settings, spec.name)), spec.metadata["doc"])
        for spec in fields(Settings)
        if "env" in spec.metadata
    ]


def load(environ: Mapping[str, str] | None = None, *, role: Role = Role.TOOL) -> Settings:
    """Return the settings in `environ` (default: the process's), checked for `role`.

    Raises SettingsInvalid with every problem there is.
    """
    env = os.environ if environ is None else environ
    problems: list[str] = []
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        name = spec.metadata.get("env")
        if name is None or name not in env:
            continue
        if env[name] == "" and name != "FLW_SECRET_HASH":
            continue  # an empty variable is an unset one, but an empty secret is a mistake
        try:
            values[spec.name] = spec.metadata["parse"](env[name])
        except Unusable as e:
            problems.append(f"{name} {e}")
        except ValueError:
            problems.append(f"{name} is not valid")  # its text may quote the value
    settings = Settings(**values)
    settings = Settings(**values, merchants=_merchants(settings, env, problems))
    problems.extend(_contradictions(settings, role))
    if problems:
        raise SettingsInvalid(problems)
    return settings


def _merchants(
    settings: Settings, env: Mapping[str, str], problems: list[str]
) -> dict[str, Merchant]:
    first = Merchant(
        DEFAULT_MERCHANT,
        secret_hashes=settings.secret_hashes,
        secret_key=settings.secret_key,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        confirm=settings.confirm,
        api=settings.api,
    )
    found = {DEFAULT_MERCHANT: first}
    if settings.merchants_file is not None:
        found |= further_merchants(settings.merchants_file, env, problems)
        problems += shared_tokens(found, settings.api_tokens)
    return found


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _cluster_problems(settings: Settings) -> list[str]:
    problems = []
    if not settings.queue_url:
        problems.append(
            "QUEUE_URL is not set, and CACHE_URL names a cluster, which cannot hold the queue: "
            "name one primary, or a redis+sentinel:// service"
        )
    if urlsplit(settings.cache_url).path.strip("/") not in ("", "0"):
        problems.append(
            "CACHE_URL names a cluster, which has no databases but 0: end it at the port"
        )
    return problems


def _contradictions(settings: Settings, role: Role) -> list[str]:
    problems = []
    if "+cluster://" in settings.cache_url:
        problems.extend(_cluster_problems(settings))
    if (settings.client_id is None) != (settings.client_secret is None):
        problems.append("FLW_CLIENT_ID and FLW_CLIENT_SECRET go together: set both or neither")
    if settings.log_format not in {"auto", "json", "console"}:
        problems.append("LOG_FORMAT must be auto, json or console")
    if 0 < settings.event_keys_keep_days < (settings.inbox_keep_days or 36_500):
        problems.append("EVENT_KEYS_KEEP_DAYS must be at least INBOX_KEEP_DAYS, or 0")
    if role is Role.WEB:
        if not settings.secret_hashes:
            problems.append(
                "FLW_SECRET_HASH is not set: without it nobody can tell Flutterwave's webhooks "
                "from anyone's. Take it from the dashboard, Settings, Webhooks"
            )
        if not settings.api_tokens and settings.host not in LOOPBACK:
            problems.append(
                f"API_TOKENS is not set, so the server binds to loopback only, not to "
                f"{settings.host}: set a token (a long random text) or HOST=127.0.0.1"
            )
    return problems
