"""Uses S3 with as few requests as the protocol allows: one per operation.

s3fs makes more requests than needed: whether a missing name is a folder, how long a file is before it is read, what
else is beside an empty folder. When clips are committed and 20,000 finished clips listed, these are most of the
traffic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sam3ray.faults.storage import asked_again

TOKEN = "sam3raytoken"
PAGE = 1000  # names per request, the most that S3 returns


def head(fs: Any, path: str) -> Mapping[str, Any]:
    """One HEAD: "ContentLength", "LastModified", "Metadata". Raises FileNotFoundError."""
    bucket, key, _ = fs.split_path(path)
    try:
        found: Mapping[str, Any] = fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again below, with the store's reason
        fuller = asked_again(error, fs, path)
    else:
        return found
    raise fuller  # raised outside the handler to keep its own cause


def get(fs: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
    """One GET, of a range if one is given; a negative `start` counts from the end. Raises FileNotFoundError."""
    try:
        data: bytes = fs.cat_file(path, start=start, end=end, max_concurrency=1)
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if start is not None and response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
            return b""  # the file is empty or shorter
        raise
    return data


def put(fs: Any, local: str, path: str, *, token: str | None) -> bool:
    """One PUT. With a token, it marks the file with it, and fails if the file exists.

    Returns:
        Whether the answer proves that the store has these very bytes. If not (for example, encryption with the
        customer's own keys changes check sums), the caller can check.

    Raises:
        FileExistsError: the file exists.
    """
    with open(local, "rb") as file:
        data = file.read()
    condition = {} if token is None else {"mode": "create", "Metadata": {TOKEN: token}}
    # The chunk size is chosen so that s3fs always uses one request: no multipart upload can be left behind.
    answer = fs.pipe_file(path, data, chunksize=max(50 * 2**20, len(data) // 2 + 1), **condition)
    tag = str((answer or {}).get("ETag", "")).strip('"')
    return tag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def listing(
    fs: Any, path: str, prefix: str = "", *, deep: bool = False, told: Callable[[int], None] | None = None
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """The names in a folder that begin with `prefix`, a thousand per request, in byte order.

    Args:
        deep: also list subfolders, as paths below the folder.
        told: called after each request with the number listed so far.

    Yields:
        (name, {"Size", "LastModified"}), or (name, None) of a subfolder.
    """
    bucket, key, _ = fs.split_path(path)
    below = f"{key}/" if key else ""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": below + prefix, "MaxKeys": PAGE}
    if not deep:
        request["Delimiter"] = "/"
    count = 0
    while True:
        page = fs.call_s3("list_objects_v2", **request)
        for folder in page.get("CommonPrefixes", ()):
            yield folder["Prefix"][len(below) :].rstrip("/"), None
        for item in page.get("Contents", ()):
            name = item["Key"][len(below) :]
            if name and not name.endswith("/"):  # the empty object that a console's "create folder" makes
                count += 1
                yield name, item
        if told is not None:
            told(count)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
