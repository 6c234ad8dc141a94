"""The same error of a store means the same on reading and on writing, and says what the store said and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.faults.storage import Kind, explain
from sam3ray.store import RunStore
from sam3ray.video import VideoCache
from sam3ray.video._remote import look_up
from tests.servers import Place
from tests.store.conftest import QUICK
from tests.store.proxy import Fault, FaultyProxy, faulty_proxy
from tests.store.store_files import write_clip

ONE_TRY = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
EXPIRED = (400, "ExpiredToken", "The provided token has expired.")
UNKNOWN = (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
SKEWED = (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
DENIED = (403, "AccessDenied", "Access Denied")
NO_KEY = (403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: y")
ARCHIVED = (403, "InvalidObjectState", "The operation is not valid for the object's storage class")
REGION = (400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'")


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server) as found:
        yield found


@pytest.mark.parametrize(
    ("refusal", "read", "stops", "advice"),
    [
        (EXPIRED, Reason.STORAGE, False, "renew them if they have expired"),
        (UNKNOWN, Reason.STORAGE, False, "check the credentials"),
        (SKEWED, Reason.STORAGE, False, "set this machine's clock"),
        (DENIED, Reason.PERMISSION_DENIED, True, "check the credentials in the environment and their rights"),
        (NO_KEY, Reason.PERMISSION_DENIED, True, "the key that encrypts it must allow"),
        (ARCHIVED, Reason.PERMISSION_DENIED, True, "restore it first"),
        (REGION, Reason.STORAGE, True, "AWS_DEFAULT_REGION"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_a_refusal_carries_the_stores_reason_both_ways(
    refusal, read: Reason, stops: bool, advice: str, s3_place: Place, proxy: FaultyProxy, tmp_path: Path
) -> None:
    options = {"endpoint_url": proxy.url, **ONE_TRY}
    store = RunStore(s3_place.uri, options, QUICK)
    store.probe()
    file, _ = write_clip(tmp_path, "a")
    proxy.refusal = refusal
    proxy.decide = lambda _: Fault.REFUSED
    video = f"{s3_place.uri}/video.mp4"
    with pytest.raises(ClipError) as reading:
        look_up(video, options, VideoConfig())  # begins with a HEAD, whose answer has no body
    with pytest.raises(JobStopped if stops else ClipError) as writing:
        store.commit("a", file)
    with pytest.raises(JobStopped if stops else ClipError) as looking:
        store.storage.size("annotations/a.parquet")
    assert reading.value.reason is read
    assert stops or writing.value.reason is Reason.STORAGE
    for error, address in ((reading, video), (writing, s3_place.uri), (looking, s3_place.uri)):
        text = str(error.value)
        assert refusal[1] in text
        assert refusal[2] in text
        assert advice in text
        assert address in text


def test_a_download_that_is_refused_says_why(s3_place: Place, proxy: FaultyProxy, tmp_path: Path) -> None:
    """The name may be looked at, the bytes lie in an archive."""
    import fsspec

    video = f"{s3_place.uri}/video.mp4"
    fsspec.filesystem("s3", **s3_place.options, skip_instance_cache=True).pipe_file(video, b"x" * 100)
    proxy.refusal = ARCHIVED
    proxy.decide = lambda request: Fault.REFUSED if request.method == "GET" else Fault.NONE
    cache = VideoCache(tmp_path / "cache", 10**6, {"endpoint_url": proxy.url, **ONE_TRY})
    with pytest.raises(ClipError, match="InvalidObjectState") as caught, cache.open(video):
        pass
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert "restore it first" in str(caught.value)


class HttpResponseError(Exception):
    """As azure.core raises it."""

    def __init__(self, status_code: int, error_code: str, message: str) -> None:
        super().__init__(message)
        self.status_code, self.error_code, self.message = status_code, error_code, message


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            HttpResponseError(409, "BlobArchived", "This operation is not permitted on an archived blob."),
            Kind.ARCHIVED,
            "",
        ),
        (HttpResponseError(403, "AuthenticationFailed", "Server failed\nTime:x"), Kind.CREDENTIALS, ""),
        (HttpResponseError(403, "AuthorizationPermissionMismatch", "no"), Kind.DENIED, ""),
        (HttpResponseError(503, "ServerBusy", "busy"), Kind.BUSY, ""),
        (OSError("Forbidden: https://storage.googleapis.com/b/o"), Kind.DENIED, None),
        (OSError(errno.ENOSPC, "No space left on device"), Kind.REFUSED, None),
        (ConnectionResetError(), Kind.BUSY, None),
        (TimeoutError(), Kind.BUSY, None),
        (ValueError("x"), Kind.NOT_STORAGE, None),
        (KeyError("x"), Kind.NOT_STORAGE, None),
    ],
)
def test_errors_of_other_stores(error: Exception, kind: Kind, code: str | None) -> None:
    found = explain(error)
    assert found.kind is kind
    if code is not None:
        assert found.code == error.error_code
        assert "\n" not in str(found)
