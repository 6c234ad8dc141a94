"""Credentials are masked wherever they turn up; other text is left alone."""

from __future__ import annotations

import re
from re import _constants as sre
from re import _parser as sre_parser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ray.guard import redact as module
from sam3ray.guard.redact import redact, redact_values, remember_secrets


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://AKIAABCDEFGHIJKLMNOP:se/cret@bucket/x", "s3://***@bucket/x"),
        ("get https://bob:pass@host/v.mp4 failed", "get https://***@host/v.mp4 failed"),
        ("https://h/v?X-Amz-Credential=AK%2Fx&X-Amz-Signature=abc&w=1", "https://h/v?***"),
        ("https://a.blob.core.windows.net/c/b?sv=2024&sig=ab%3D&se=1", "https://a.blob.core.windows.net/c/b?***"),
        ("https://h/v#access_token=abc", "https://h/v#***"),
        ("see (https://h/v?id=7), then https://g/w?x.", "see (https://h/v?***), then https://g/w?***."),
        ("{'url': 'https://h/v?a=b', 'n': 1}", "{'url': 'https://h/v?***', 'n': 1}"),
        ("https://proxy/?u=https://u:pass@h/v?k=s", "https://proxy/?***https://***@h/v?***"),
        ("simplecache::https://h/v?a=b", "simplecache::https://h/v?***"),
        ("HTTPS://h/v?A=B", "HTTPS://h/v?***"),
        ("https://u:p/a@ss?w#d@host/x", "https://***@host/x"),
        ("https://u:8080secret@host/x", "https://***@host/x"),
        ("https://user@host/x", "https://***@host/x"),
        ("http://u:word://x@host/y", "http://***@host/y"),
        ("http://u:a/word://b://c@host", "http://***@host"),
        ("rtsp://u:rtsp://x@host", "rtsp://***@host"),
        ("http://a:80/x,http://u:p@b/y", "http://a:80/x,http://***@b/y"),
        ("http://a:80/?to=http://b:81/,s3://u:p@c", "http://a:80/?***http://b:81/,s3://***@c"),
        ("s3://b/k?X-Amz-Signature=abc&partNumber=2", "s3://b/k?X-Amz-Signature=***&partNumber=2"),
        ("'/v.mp4?jwt=abc.def&w=1'", "'/v.mp4?jwt=***&w=1'"),
        ("api_key=a1 hmac=b2 Policy=c3", "api_key=*** hmac=*** Policy=***"),
        ("client_secret=d4 sessionid=e5", "client_secret=*** sessionid=***"),
        ("Cookie: sid=1; b=2", "Cookie: ***"),
        ("X-Api-Key: 12345", "X-Api-Key: ***"),
        ("sent Bearer abcdefgh.ijk", "sent Bearer ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.sig", "***"),
        ("AccountName=n;AccountKey=a+b/c==;EndpointSuffix=x", "AccountName=n;AccountKey=***;EndpointSuffix=x"),
        ("{'Authorization': 'Bearer abc.def', 'x': 1}", "{'Authorization': ***, 'x': 1}"),
        ("key AKIAABCDEFGHIJKLMNOP used", "key *** used"),
        ("token hf_abcdefghijklmnopqrstuv", "token ***"),
        ("rtsp://h:554/live?u=a&psw=b: no data", "rtsp://h:554/live?***: no data"),
        ("srt://h:9000?streamid=read:x:user:pw", "srt://h:9000?***"),
        ("rtsp://h/user=a_password=tl_x1_channel=1_stream=0.sdp", "rtsp://h/user=a_password=***_channel=1_stream=0.sdp"),
        ("rtsp://h/user=a&pass=bc&channel=1.sdp?", "rtsp://h/user=a&pass=***&channel=1.sdp?"),
    ],
)  # fmt: skip
def test_credentials_are_masked(text: str, clean: str):
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b.mp4",
        "/videos/me@home/x.mp4",
        "not_found: s3://bucket/x (frame 3)",
        "the key object is missing",
        "score_threshold_detection is 0.6, the run has 0.5",
        "s3://bucket/what?.mp4",
        "s3://bucket/a?versionId=3",
        "abfs://container@account.dfs.core.windows.net/x",
        "http://[::1]:9000/me@home",
        "https://host:443?",
        "the author= of it",
        "http://127.0.0.1:9000/bucket/me@home.mp4",
    ],
)
def test_ordinary_text_stays(text: str):
    assert redact(text) == text


def test_known_values_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setattr(module, "_known_secrets", set())
    module._known_pattern.cache_clear()
    remember_secrets({"client_kwargs": {"aws_secret_access_key": "abc/def+SECRET"}, "key": "short"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "from-the-environment")
    assert redact("x abc/def+SECRET y from-the-environment short") == "x *** y *** short"


def test_values_are_masked_by_name():
    given = {
        "endpoint_url": "http://host",
        "key": "abc",
        "secret": "def",
        "account_key": "ghi",
        "client_kwargs": {"aws_session_token": "jkl", "region_name": "eu"},
        "tokenizer": "clip",
        "max_tokens": 32,
        "anon": False,
        "list": ["s3://u:p@b/x"],
    }
    assert redact_values(given) == {
        "endpoint_url": "http://host",
        "key": "***",
        "secret": "***",
        "account_key": "***",
        "client_kwargs": {"aws_session_token": "***", "region_name": "eu"},
        "tokenizer": "clip",
        "max_tokens": 32,
        "anon": False,
        "list": ["s3://***@b/x"],
    }


PARAMETERS = ("api_key", "auth", "jwt", "hmac", "Policy", "client_secret", "sessionid", "x", "%73ig", "se", "")


@given(
    parameters=st.lists(st.sampled_from(PARAMETERS), min_size=1, max_size=4),
    place=st.sampled_from(["{}", "url='{}'", '{{"u": "{}"}}', "<{}>", "404 for {}, sorry", "a {} b {}", "({})"]),
    scheme=st.sampled_from(["http", "https", "HTTPS", "wss", "rtsp", "srt"]),
    secret=st.text(
        st.characters(codec="ascii", exclude_characters=" \"'<>`\\&#", exclude_categories=["Cc"]), min_size=8
    ),
)
def test_no_part_of_a_query_is_left_whatever_its_name(parameters, place, scheme, secret):
    marked = f"SECRET{secret}SECRET"
    query = "&".join(f"{name}={marked}" for name in parameters)
    address = f"{scheme}://host.example/v.mp4?{query}"
    clean = redact(place.format(address, address))
    assert "SECRET" not in clean
    assert "host.example/v.mp4?***" in clean


@given(
    user=st.text(
        st.characters(codec="ascii", exclude_characters=" /?#\"'<>`\\@:", exclude_categories=["Cc"]), min_size=1
    ),
    password=st.text(st.characters(codec="ascii", exclude_characters=" ", exclude_categories=["Cc"]), min_size=1),
    scheme=st.sampled_from(["http", "s3", "sftp", "ray", "rtsp"]),
)
def test_a_password_is_masked_whatever_its_letters(user, password, scheme):
    marked = f"SECRET{password}SECRET"
    assert "SECRET" not in redact(f"cannot open {scheme}://{user}:{marked}@host/x: no")


PIECES = ["a", "A1", "://", "http://", "s3://", "@", ":", "/", "?", "#", "&", "=", "sig=", "'", "[", "]", "-", ".", " "]
PIECES += ["eyJ", "hf_", "authorization", "bearer ", "cookie:", "a.-+", "AKIA", "\\", "%", ","]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.integers(1, 300))
def test_every_character_is_looked_at_a_few_times_and_no_more(unit, times):
    """Counted: what the only code that loops is given, all calls together, is no more than the text."""
    text = "".join(unit) * times
    words, pieces = [], []
    word, piece = module._redacted_word, module._redacted_address
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "_redacted_word", lambda match: (words.append(match.end() - match.start()), word(match))[1]
        )
        patch.setattr(module, "_redacted_address", lambda each: (pieces.append(len(each)), piece(each))[1])
        redact(text)
    assert sum(words) <= len(text)
    assert sum(pieces) <= len(text)


@pytest.mark.parametrize("name", [name for name, each in vars(module).items() if isinstance(each, re.Pattern)])
def test_no_pattern_can_go_back_over_what_it_has_passed(name):
    """Unbounded repetitions are possessive, never nested, and none begins a pattern: no text takes squared time."""
    pattern = getattr(module, name)

    def check(items, inside):
        for op, value in items:
            kind = str(op)
            if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
                _, high, body = value
                unbounded = high == sre.MAXREPEAT
                assert not (unbounded and inside), f"{name}: a repetition in a repetition"
                assert not unbounded or kind == "POSSESSIVE_REPEAT", f"{name}: gives back what it took"
                check(body, inside or unbounded)
            elif kind == "SUBPATTERN":
                check(value[-1], inside)
            elif kind == "BRANCH":
                for branch in value[1]:
                    check(branch, inside)
            elif kind in ("ASSERT", "ASSERT_NOT"):
                check(value[1], inside)

    parsed = list(sre_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE))
    check(parsed, False)
