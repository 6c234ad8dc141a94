"""Runs an S3 server on this machine (moto), and counts this process's requests through s3fs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REQUESTS: Counter[str] = Counter()


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a server with a bucket, `bucket-1`; yields the fsspec options to reach it."""
    import s3fs

    from tests import servers

    os.environ.update(
        AWS_ACCESS_KEY_ID=servers.AWS_ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=servers.AWS_SECRET,
        AWS_DEFAULT_REGION="us-east-1",
    )
    with servers.s3(folder) as url:
        s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True).mkdir("bucket-1")
        yield {"endpoint_url": url}


def count_requests() -> None:
    """Counts requests of this process from now on."""
    import s3fs
    from fsspec.asyn import sync_wrapper

    ask = s3fs.S3FileSystem._call_s3

    async def counting(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        REQUESTS[method] += 1
        return await ask(self, method, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = counting
    s3fs.S3FileSystem.call_s3 = sync_wrapper(counting)
