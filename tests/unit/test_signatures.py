"""Only what is signed with a live secret gets in, and nothing about a secret gets out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paystate.errors import SignatureRejected
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, SignatureVerifier, sign_v4
from paystate.updates import Api
from tests.unit.bodies import headers, v3_headers, v4_headers

SECRET = "current-secret"
PREVIOUS = "previous-secret"
RAW = b'{"type":"charge.completed"}'


@pytest.fixture
def verifier() -> SignatureVerifier:
    return SignatureVerifier([SECRET, PREVIOUS])


def rejection(verifier: SignatureVerifier, raw: bytes, *pairs: tuple[str, str]) -> str:
    with pytest.raises(SignatureRejected) as caught:
        verifier.verify(raw, headers(*pairs))
    return caught.value.reason


@pytest.mark.parametrize("secret", [SECRET, PREVIOUS])
def test_every_live_secret_is_accepted(verifier: SignatureVerifier, secret: str) -> None:
    assert verifier.verify(RAW, v3_headers(secret)) is Api.V3
    assert verifier.verify(RAW, v4_headers(RAW, secret)) is Api.V4


def test_a_v4_signature_is_base64_of_hmac_sha256_over_the_exact_body() -> None:
    digest = hmac.digest(SECRET.encode(), RAW, hashlib.sha256)
    assert sign_v4(RAW, SECRET) == base64.b64encode(digest).decode()
    assert len(sign_v4(RAW, SECRET)) == 44


def test_one_verifier_verifies_any_number_of_bodies(verifier: SignatureVerifier) -> None:
    for raw in (b"", b"a", b"ab", b"a"):
        assert verifier.verify(raw, v4_headers(raw, SECRET)) is Api.V4


def test_a_changed_body_breaks_a_v4_signature(verifier: SignatureVerifier) -> None:
    with pytest.raises(SignatureRejected, match="mismatch"):
        verifier.verify(RAW + b" ", v4_headers(RAW, SECRET))


def test_header_names_are_matched_without_regard_to_case(verifier: SignatureVerifier) -> None:
    assert verifier.verify(RAW, headers(("Verif-Hash", SECRET))) is Api.V3


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "missing"),
        ([("authorization", SECRET)], "missing"),
        ([(V3_HEADER, "")], "malformed"),
        ([(V3_HEADER, "wrong")], "mismatch"),
        ([(V3_HEADER, SECRET + " ")], "mismatch"),
        ([(V3_HEADER, SECRET.upper())], "mismatch"),
        ([(V3_HEADER, "gehëim")], "mismatch"),
        ([(V3_HEADER, "\udcff\udcfe")], "mismatch"),
        ([(V3_HEADER, "\ud800")], "malformed"),
        ([(V3_HEADER, SECRET), (V3_HEADER, SECRET)], "repeated"),
        ([(V3_HEADER, SECRET), (V3_HEADER, "wrong")], "repeated"),
        ([(V4_HEADER, "")], "malformed"),
        ([(V4_HEADER, SECRET)], "malformed"),
        ([(V4_HEADER, "ë" * 44)], "malformed"),
        ([(V4_HEADER, sign_v4(RAW, SECRET) + "\n")], "malformed"),
        ([(V4_HEADER, sign_v4(RAW, "other"))], "mismatch"),
        ([(V4_HEADER, sign_v4(RAW, SECRET))] * 2, "repeated"),
    ],
)
def test_anything_else_is_refused_with_its_reason(
    verifier: SignatureVerifier, pairs: list[tuple[str, str]], reason: str
) -> None:
    assert rejection(verifier, RAW, *pairs) == reason


@pytest.mark.parametrize(
    ("signature", "reason"),
    [("", "malformed"), ("junk", "malformed"), (sign_v4(b"other body", SECRET), "mismatch")],
)
def test_a_broken_strong_signature_never_falls_back_to_a_valid_weak_one(
    verifier: SignatureVerifier, signature: str, reason: str
) -> None:
    assert rejection(verifier, RAW, (V3_HEADER, SECRET), (V4_HEADER, signature)) == reason


def test_a_valid_strong_signature_counts_whatever_the_weak_one_says(
    verifier: SignatureVerifier,
) -> None:
    both = headers((V3_HEADER, "wrong"), (V4_HEADER, sign_v4(RAW, SECRET)))
    assert verifier.verify(RAW, both) is Api.V4


def test_a_repeated_weak_header_is_refused_beside_a_valid_strong_one(
    verifier: SignatureVerifier,
) -> None:
    strong = (V4_HEADER, sign_v4(RAW, SECRET))
    assert rejection(verifier, RAW, (V3_HEADER, SECRET), (V3_HEADER, SECRET), strong) == "repeated"


@pytest.mark.parametrize("presented", [SECRET, PREVIOUS, "wrong"])
@pytest.mark.parametrize("api", [Api.V3, Api.V4])
def test_every_secret_is_compared_in_constant_time_whichever_matches(
    monkeypatch: pytest.MonkeyPatch, api: Api, presented: str
) -> None:
    compared: list[bytes] = []
    genuine = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        assert isinstance(a, bytes)
        assert isinstance(b, bytes)
        assert len(a) == len(b), "comparing two lengths takes a time that tells one of them"
        compared.append(a)
        return genuine(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    verifier = SignatureVerifier([SECRET, PREVIOUS, "a-third-secret"])
    sent = v3_headers(presented) if api is Api.V3 else v4_headers(RAW, presented)
    try:
        verifier.verify(RAW, sent)
    except SignatureRejected:
        assert presented == "wrong"
    assert len(set(compared)) == 3


@pytest.mark.parametrize("secrets", [[], [""], ["  "], [SECRET, ""], SECRET, ["\ud800"]])
def test_a_verifier_without_a_usable_secret_is_not_built(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="secret"):
        SignatureVerifier(secrets)


@pytest.mark.parametrize("secret", ["", " "])
def test_nothing_is_signed_with_a_blank_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        sign_v4(RAW, secret)


def test_a_secret_of_any_bytes_works_as_the_environment_and_aiohttp_decode_it() -> None:
    secret = b"caf\xe9-\xff".decode("utf-8", "surrogateescape")
    verifier = SignatureVerifier([secret, "gehëim"])
    assert verifier.verify(RAW, v3_headers(secret)) is Api.V3
    assert verifier.verify(RAW, v3_headers("gehëim")) is Api.V3
    assert verifier.verify(RAW, v4_headers(RAW, secret)) is Api.V4


def test_secrets_are_mute(verifier: SignatureVerifier) -> None:
    assert repr(verifier) == "SignatureVerifier(<2 secrets>)"
    assert SECRET not in str(verifier)
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(verifier)


def test_a_refused_secret_is_not_in_the_exception() -> None:
    with pytest.raises(ValueError, match="not valid text") as caught:
        SignatureVerifier([SECRET, "\ud800-quiet"])
    assert caught.value.args == ("a secret is not valid text",)
    assert caught.value.__context__ is None


_VALUES = st.text(st.characters(), max_size=60) | st.sampled_from([SECRET, sign_v4(RAW, SECRET)])
_PAIRS = st.lists(st.tuples(st.sampled_from([V3_HEADER, V4_HEADER, "x-other"]), _VALUES))


@settings(deadline=None)
@given(raw=st.binary(max_size=40), pairs=_PAIRS)
def test_arbitrary_headers_are_verified_or_rejected_and_nothing_else(
    raw: bytes, pairs: list[tuple[str, str]]
) -> None:
    verifier = SignatureVerifier([SECRET])
    try:
        api = verifier.verify(raw, headers(*pairs))
    except SignatureRejected:
        return
    wanted = SECRET if api is Api.V3 else sign_v4(raw, SECRET)
    assert wanted in [value for _, value in pairs]
