"""Settings: every problem at once, and no secret ever said aloud."""

from __future__ import annotations

import traceback
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paystate.errors import SettingsInvalid
from paystate.merchants import Confirm
from paystate.settings import Role, Settings, describe, load
from paystate.values import mask_url

# A slow machine proves nothing.
unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CANARY = "c4n4ry"

SOUND = {"FLW_SECRET_HASH": "a-hash", "API_TOKENS": "a-token"}


def refused(environ: dict[str, str], role: Role = Role.TOOL) -> SettingsInvalid:
    """Return the refusal of `environ`."""
    with pytest.raises(SettingsInvalid) as caught:
        load(environ, role=role)
    return caught.value


def everything_said(error: SettingsInvalid) -> str:
    """Return all that a log, a traceback or a person could be shown of `error`."""
    return "".join([repr(error), str(error), *error.problems, *traceback.format_exception(error)])


def test_without_any_variable_a_tool_starts_with_the_defaults() -> None:
    """Nothing is needed to look around: one host, loopback, every merchant's defaults."""
    settings = load({})
    assert settings.host == "127.0.0.1"
    assert settings.port == 8080
    assert settings.confirm is Confirm.ALWAYS
    assert list(settings.merchants) == ["default"]


def test_settings_are_frozen() -> None:
    """They are read once; nobody changes them afterwards."""
    with pytest.raises(FrozenInstanceError):
        load({}).port = 1  # type: ignore[misc]


def test_what_cannot_be_read_is_not_said_to_be_missing_as_well() -> None:
    given = {"FLW_SECRET_HASH": " copied", "API_TOKENS": "a b ", "HOST": "0.0.0.0"}
    problems = refused(given, Role.WEB).problems
    assert [problem.partition(" ")[0] for problem in problems] == ["FLW_SECRET_HASH", "API_TOKENS"]
    assert "spaces" in problems[0]


def test_every_problem_is_reported_at_once() -> None:
    """Ten mistakes are ten lines of one refusal, each naming its variable."""
    wrong = {
        "DATABASE_URL": "mysql://localhost/x",
        "CACHE_URL": "http://localhost",
        "QUEUE_URL": "redis+cluster://localhost",
        "FLW_SECRET_HASH": "",
        "PORT": "65536",
        "WORKER_PORT": "eighty",
        "CONFIRM": "sometimes",
        "LOG_LEVEL": "LOUD",
        "LOG_FORMAT": "xml",
        "FLW_CLIENT_ID": "id-without-secret",
        "MERCHANTS_FILE": "/nowhere/at/all.toml",
        "HOST": "0.0.0.0",
    }
    error = refused(wrong, Role.WEB)
    named = {problem.split()[0] for problem in error.problems}
    assert named == set(wrong) - {"HOST"} | {"API_TOKENS"}
    assert all(problem in str(error) for problem in error.problems)


def test_every_setting_is_documented_and_described_once() -> None:
    """`paystate config` shows each variable with its meaning."""
    shown = describe(load({}))
    names = [name for name, _, _ in shown]
    assert (
        len(names) == len(set(names)) == len([f for f in fields(Settings) if "env" in f.metadata])
    )
    assert all(meaning for _, _, meaning in shown)


@pytest.mark.parametrize(
    "name", [f.metadata["env"] for f in fields(Settings) if "env" in f.metadata]
)
def test_an_empty_variable_is_an_unset_one_unless_it_is_the_secret(name: str) -> None:
    """Platforms set variables to nothing; only an empty webhook secret is refused."""
    if name == "FLW_SECRET_HASH":
        assert refused({name: ""}).problems == ["FLW_SECRET_HASH holds an empty secret"]
    else:
        assert load({name: ""}) == load({})


# --- secrets are mute -----------------------------------------------------------------------------

SECRETS = {
    "DATABASE_URL": f"postgresql://user:{CANARY}@db.example/paystate",
    "CACHE_URL": f"rediss://:{CANARY}@cache.example:6380/0",
    "QUEUE_URL": f"redis+sentinel://user:{CANARY}@h1:26379,h2:26379/main",
    "FLW_SECRET_HASH": f"{CANARY}-1,{CANARY}-2",
    "FLW_SECRET_KEY": f"FLWSECK-{CANARY}-X",
    "FLW_CLIENT_ID": "an-id",
    "FLW_CLIENT_SECRET": CANARY,
    "API_TOKENS": f"{CANARY},board:default:read={CANARY}2",
    "LINK_KEY": CANARY,
}


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u@/db?host=/run&password={CANARY}",
        f"redis://:ab/{CANARY}@h",
        f"redis://:ab#{CANARY}@h",
        f"https://h/?key={CANARY}",
        f"https://h/#{CANARY}",
    ],
)
def test_a_masked_url_shows_no_parameter_that_could_be_a_secret(url: str) -> None:
    assert CANARY not in mask_url(url)


def test_no_secret_is_shown_by_settings() -> None:
    """`repr`, `str` and `paystate config` say that secrets are set, never what they are."""
    settings = load({**SOUND, **SECRETS}, role=Role.WEB)
    shown = {name: value for name, value, _ in describe(settings)}
    for text in (repr(settings), str(settings), repr(shown), repr(settings.merchants)):
        assert CANARY not in text
    assert shown["FLW_SECRET_HASH"] == "(set, 2)"
    assert shown["LINK_KEY"] == "(set, 1)"
    assert shown["DATABASE_URL"] == "postgresql://user:***@db.example/paystate"
    assert shown["CACHE_URL"] == "rediss://:***@cache.example:6380/0"
    assert shown["QUEUE_URL"] == "redis+sentinel://user:***@h1:26379,h2:26379/main"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://user:{CANARY}@db.example/paystate"),
        ("DATABASE_URL", f"postgresql://user:{CANARY}@[bad"),
        ("DATABASE_URL", CANARY),
        ("CACHE_URL", f"http://:{CANARY}@cache.example"),
        ("CACHE_URL", f"redis://:{CANARY}@℀.example"),
        ("QUEUE_URL", f"redis+cluster://:{CANARY}@cache.example"),
        ("FLW_SECRET_HASH", f"{CANARY},"),
        ("FLW_SECRET_HASH", f" {CANARY}"),
        ("FLW_SECRET_HASH", f"{CANARY}, {CANARY}"),
        ("FLW_SECRET_KEY", f"{CANARY}\n"),
        ("FLW_CLIENT_SECRET", f" {CANARY}"),
        ("API_TOKENS", f"{CANARY},,{CANARY}"),
        ("LINK_KEY", f"{CANARY} "),
        ("FLW_BASE_URL", f"ftp://user:{CANARY}@api.example"),
        ("FLW_BASE_URL", f"https://user:{CANARY}@api.example/v3"),
        ("FLW_BASE_URL", f"https://user:{CANARY}@℀.example"),
        ("FLW_BASE_URL", f"https://api.example/v3?key={CANARY}"),
        ("CACHE_URL", f"redis://:ab/{CANARY}@cache.example"),
        ("CACHE_URL", f"redis://:ab#{CANARY}@cache.example"),
        ("MERCHANTS_FILE", f"/tmp/{CANARY}\0x"),
    ],
)
def test_no_secret_is_quoted_by_a_refusal(name: str, value: str) -> None:
    """A malformed secret is refused by the name of its variable alone."""
    said = everything_said(refused({name: value}))
    assert name in said
    assert CANARY not in said


@pytest.mark.parametrize("value", ["", ",", "a,", ",a", "a,,b", " a", "a ", "a, b", "\ta", "a\n"])
def test_an_empty_or_padded_secret_is_refused(value: str) -> None:
    """An empty secret would match an empty header; a stray space would match nothing."""
    (problem,) = refused({"FLW_SECRET_HASH": value}).problems
    assert problem.startswith("FLW_SECRET_HASH ")
    assert "empty" in problem or "spaces" in problem


@pytest.mark.parametrize("name", ["FLW_SECRET_KEY", "FLW_CLIENT_SECRET", "LINK_KEY", "API_TOKENS"])
@pytest.mark.parametrize("value", [" ", " a", "a "])
def test_every_other_secret_is_refused_with_spaces_around_it(name: str, value: str) -> None:
    """A credential copied with a blank is a mistake that nobody should have to look for."""
    problems = refused({"FLW_CLIENT_ID": "i", name: value}).problems
    assert any(problem.startswith(f"{name} ") for problem in problems)


def test_two_secrets_live_at_once() -> None:
    """While one is rotated, both count, in order."""
    assert load({"FLW_SECRET_HASH": "new,old"}).secret_hashes == ("new", "old")


def test_a_single_secret_may_hold_a_comma() -> None:
    """Only lists are split at commas."""
    assert load({"FLW_SECRET_KEY": "a,b"}).secret_key == "a,b"


plain = st.text("abcdefghijklmnopqrstuvwxyz0123456789!$&*+=~%.-_", min_size=6, max_size=20)


@unhurried
@given(plain, st.sampled_from(["redis", "rediss+cluster", "redis+sentinel", "postgresql"]))
def test_a_masked_url_keeps_everything_but_the_password(password: str, scheme: str) -> None:
    """User, hosts, path and query stay readable; the password becomes three stars."""
    rest = "@h1.example:1,h2.example:2/name?timeout=5"
    assert mask_url(f"{scheme}://who:{password}{rest}") == f"{scheme}://who:***{rest}"


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    """There is nothing to hide in it."""
    for url in ("sqlite:///a/b.db", "redis://127.0.0.1:6379/0", "postgresql://me@/x?host=/run/pg"):
        assert mask_url(url) == url


# --- what a role needs ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])
def test_the_web_process_binds_beyond_loopback_only_with_a_token(host: str) -> None:
    """An API without a token is for this machine alone."""
    (problem,) = refused({"FLW_SECRET_HASH": "h", "HOST": host}, Role.WEB).problems
    assert problem.startswith("API_TOKENS is not set")
    assert load({**SOUND, "HOST": host}, role=Role.WEB).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_the_web_process_binds_to_loopback_without_a_token(host: str) -> None:
    """On loopback a token is not needed."""
    assert load({"FLW_SECRET_HASH": "h", "HOST": host}, role=Role.WEB).api_tokens == ()


def test_only_the_web_process_needs_the_webhook_secret() -> None:
    """Without a secret nobody can tell a webhook from a forgery, so the web process stays down."""
    (problem,) = refused({}, Role.WEB).problems
    assert problem.startswith("FLW_SECRET_HASH is not set")
    assert load({}, role=Role.WORKER).secret_hashes == ()


@pytest.mark.parametrize("missing", ["FLW_CLIENT_ID", "FLW_CLIENT_SECRET"])
def test_v4_credentials_come_in_pairs(missing: str) -> None:
    """An id without its secret, or the other way round, is a mistake."""
    both = {"FLW_CLIENT_ID": "i", "FLW_CLIENT_SECRET": "s"}
    load(both)
    del both[missing]
    (problem,) = refused(both).problems
    assert "go together" in problem


# --- caches and queues ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "lease_ms"),
    [
        ("redis://h", 1000),
        ("rediss://h", 1000),
        ("redis+sentinel://h:1/main", 0),
        ("rediss+sentinel://h:1,g:2/main", 0),
    ],
)
def test_the_lease_is_strict_by_default_where_the_cache_fails_over(
    cache: str, lease_ms: int
) -> None:
    """One primary has a second; a cache that may forget acknowledged writes has none."""
    environ = {"CACHE_URL": cache, "QUEUE_URL": "redis://queue"}
    assert load(environ).lease_ms == lease_ms
    assert load({**environ, "PENDING_LEASE_MS": "250"}).lease_ms == 250
    assert load({**environ, "PENDING_LEASE_MS": "0"}).lease_ms == 0


def test_the_queue_is_the_cache_unless_it_has_its_own_url() -> None:
    """One server does for both; arq's may be another."""
    assert load({"CACHE_URL": "redis://h/1"}).queue == "redis://h/1"
    assert load({"CACHE_URL": "redis://h/1", "QUEUE_URL": "redis://q"}).queue == "redis://q"


def test_a_queue_on_a_cluster_is_refused() -> None:
    """Whether it is named for the queue, or for the cache alone, which the queue would share."""
    (named,) = refused({"QUEUE_URL": "redis+cluster://h:1"}).problems
    assert named.startswith("QUEUE_URL must start with")
    (shared,) = refused({"CACHE_URL": "redis+cluster://h:1"}).problems
    assert shared.startswith("QUEUE_URL is not set")


def test_a_cluster_for_the_cache_is_strict_by_default() -> None:
    """A cache that fails over may forget acknowledged writes, so it has no lease."""
    settings = load({"CACHE_URL": "rediss+cluster://h:1,i:2", "QUEUE_URL": "redis://q"})
    assert (settings.lease_ms, settings.queue) == (0, "redis://q")


@pytest.mark.parametrize(("path", "count"), [("", 0), ("/", 0), ("/0", 0), ("/1", 1)])
def test_a_cluster_has_one_database(path: str, count: int) -> None:
    environ = {"CACHE_URL": f"redis+cluster://h:1{path}", "QUEUE_URL": "redis://q"}
    problems = refused(environ).problems if count else load(environ) and []
    assert len(problems) == count


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://h/x"),
        ("DATABASE_URL", "postgres://h/x"),
        ("DATABASE_URL", "paystate.db"),
        ("CACHE_URL", "memcached://h"),
        ("CACHE_URL", "127.0.0.1:6379"),
        ("QUEUE_URL", "redis+cluster://h"),
        ("QUEUE_URL", "amqp://h"),
        ("FLW_BASE_URL", "api.flutterwave.com"),
        ("FLW_TOKEN_URL", "file:///etc/passwd"),
    ],
)
def test_an_unknown_scheme_is_refused_with_those_that_are_known(name: str, value: str) -> None:
    """The refusal says what the address may start with."""
    (problem,) = refused({name: value}).problems
    assert problem.startswith(f"{name} must start with ")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("PORT", 0, 65535),
        ("WORKER_PORT", 0, 65535),
        ("PENDING_LEASE_MS", 0, 5000),
        ("PROVIDER_TIMEOUT_S", 1, 9),
        ("CACHE_TIMEOUT_MS", 10, 30_000),
        ("DATABASE_POOL", 1, 200),
        ("WORKER_JOBS", 1, 1000),
    ],
)
def test_a_number_has_bounds_and_both_are_allowed(name: str, least: int, most: int) -> None:
    """The bounds themselves start a process; one step past them does not."""
    load({name: str(least)})
    load({name: str(most)})
    for wrong in (str(least - 1), str(most + 1), "many", "1.5"):
        (problem,) = refused({name: wrong}).problems
        assert problem.startswith(f"{name} ")


def test_times_to_live_reach_the_policy() -> None:
    """Each of the four times is the one that was set."""
    ttl = load(
        {"TTL_TERMINAL_S": "1", "TTL_PENDING_S": "2", "TTL_PROCESSING_S": "3", "TTL_UNKNOWN_S": "4"}
    ).ttl
    assert (ttl.terminal_s, ttl.pending_s, ttl.processing_s, ttl.unknown_s) == (1, 2, 3, 4)


def test_a_base_url_loses_its_last_slash() -> None:
    """Paths are joined to it with one."""
    assert load({"FLW_BASE_URL": "http://h/v3/"}).base_url == "http://h/v3"


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sslmode=require", None),
        ("sslmode=verify-full&sslrootcert=/etc/ca.pem", None),
        ("host=/run/pg&ssl=require", None),
        ("sslmode=sometimes", "another ?sslmode= than disable, allow"),
        ("sslmode=require&channel_binding=require", "?channel_binding= which cannot be used"),
        (f"x={CANARY}&{CANARY}=1", "?x= which cannot be used"),
    ],
)
def test_a_parameter_of_the_database_is_understood_or_refused_by_name(
    query: str, complaint: str | None
) -> None:
    """None of them is found out about at the first webhook."""
    environ = {"DATABASE_URL": f"postgresql://u:p@h/db?{query}"}
    if complaint is None:
        assert query in load(environ).database_url
        return
    error = refused(environ)
    assert complaint in str(error)
    assert CANARY not in everything_said(error)


# --- merchants ------------------------------------------------------------------------------------


def merchants_file(folder: Path, content: str) -> dict[str, str]:
    """Return an environment that names a merchants file with `content`."""
    path = folder / "merchants.toml"
    path.write_text(content, "utf-8")
    return {**SOUND, "MERCHANTS_FILE": str(path)}


def test_a_merchants_file_adds_merchants(tmp_path: Path) -> None:
    """Each table is a merchant with secrets of its own; the variables are the default one's."""
    environ = merchants_file(
        tmp_path,
        """
        [shop]
        secret_hash = "new,old"
        secret_key = "env:SHOP_KEY"
        confirm = "v3"
        [stall]
        secret_hash = "env:STALL_HASH"
        """,
    )
    environ |= {"SHOP_KEY": "k", "STALL_HASH": "s"}
    settings = load(environ, role=Role.WEB)
    assert sorted(settings.merchants) == ["default", "shop", "stall"]
    shop, stall = settings.merchants["shop"], settings.merchants["stall"]
    assert settings.merchants["default"].secret_hashes == ("a-hash",)
    assert (shop.secret_hashes, shop.secret_key, shop.confirm) == (("new", "old"), "k", "v3")
    assert (stall.secret_hashes, stall.secret_key, stall.confirm) == (("s",), None, "always")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[default]\nsecret_hash = "h"', "[default]"),
        ('[Shop]\nsecret_hash = "h"', "[Shop]"),
        ('["a:b"]\nsecret_hash = "h"', "[a:b]"),
        ('[shop]\nsecret_hash = ""', "[shop]"),
        ('[shop]\nsecret_hash = "a,,b"', "secret_hash"),
        ('[shop]\nsecret_hash = " a"', "secret_hash"),
        ('[shop]\nsecret_hash = "env:NOBODY_SET_THIS"', "secret_hash"),
        ('[shop]\nsecret_key = "k"', "secret_hash"),
        ('[shop]\nsecret_hash = "h"\nsecret_key = 5', "secret_key"),
        ('[shop]\nsecret_hash = "h"\nconfirm = "perhaps"', "confirm"),
        ('[shop]\nsecret_hash = "h"\ncolour = "red"', "colour"),
        ('shop = "h"', "[shop]"),
        ("[shop", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_merchants_file_is_named(
    tmp_path: Path, content: str, complaint: str
) -> None:
    """The refusal says which table and which key, so that it can be found."""
    problems = refused(merchants_file(tmp_path, content)).problems
    assert any("MERCHANTS_FILE" in problem and complaint in problem for problem in problems)


def test_every_mistake_in_the_merchants_file_is_reported_at_once(tmp_path: Path) -> None:
    """Problems of several merchants stand beside those of the variables."""
    environ = merchants_file(
        tmp_path, '[a]\nsecret_hash = ""\n[b]\nsecret_hash = "h"\nconfirm = "x"\n'
    )
    said = str(refused({**environ, "PORT": "-1"}))
    assert all(part in said for part in ("[a]", "[b]", "PORT"))


@pytest.mark.parametrize(
    "content",
    [
        f'[shop]\nsecret_hash = " {CANARY}"',
        f'[shop]\nsecret_hash = "{CANARY},,{CANARY}"',
        f'[shop]\nsecret_hash = "h"\nsecret_key = ["{CANARY}"]',
        f'[shop]\nsecret_hash = "h"\nclient_secret = "{CANARY} "',
        f'secret_hash = "{CANARY}"',
        f'[shop]\nsecret_hash = "{CANARY}',
    ],
)
def test_no_secret_of_the_merchants_file_is_quoted(tmp_path: Path, content: str) -> None:
    """A refusal names the key, never the value."""
    assert CANARY not in everything_said(refused(merchants_file(tmp_path, content)))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are no TOML."""
    path = tmp_path / "merchants.toml"
    path.write_bytes(b"\xff\xfe")
    (problem,) = refused({"MERCHANTS_FILE": str(path)}).problems
    assert problem == "MERCHANTS_FILE is not valid TOML"
