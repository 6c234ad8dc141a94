"""Credentials are masked wherever they turn up; other text is left alone."""

from __future__ import annotations

import pytest

from sam3ray import redact as module
from sam3ray.redact import redact, redact_values, remember_secrets


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://AKIAABCDEFGHIJKLMNOP:se/cret@bucket/x", "s3://***@bucket/x"),
        ("get https://bob:pass@host/v.mp4 failed", "get https://***@host/v.mp4 failed"),
        ("https://h/v?X-Amz-Credential=AK%2Fx&X-Amz-Signature=abc&w=1", "https://h/v?X-Amz-Credential=***&X-Amz-Signature=***&w=1"),
        ("https://a.blob.core.windows.net/c/b?sv=2024&sig=ab%3D&se=1", "https://a.blob.core.windows.net/c/b?sv=2024&sig=***&se=1"),
        ("AccountName=n;AccountKey=a+b/c==;EndpointSuffix=x", "AccountName=n;AccountKey=***;EndpointSuffix=x"),
        ("{'Authorization': 'Bearer abc.def', 'x': 1}", "{'Authorization': ***, 'x': 1}"),
        ("key AKIAABCDEFGHIJKLMNOP used", "key *** used"),
        ("token hf_abcdefghijklmnopqrstuv", "token ***"),
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
        "score_threshold_detection was 0.5, is 0.6",
        "https://host/v.mp4?width=3&signal=4",
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
