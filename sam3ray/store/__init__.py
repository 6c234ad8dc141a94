"""The storage of results: a run's folder on any fsspec storage, where each clip is committed exactly once.

store = RunStore("s3://bucket/labels/run-1")
store.create_or_open(fingerprint, config, clips)
store.commit("clip-1", "/tmp/clip-1.parquet")  # True: created. False: already done
"""

from sam3ray.store.compact import CompactResult, compact_run
from sam3ray.store.creating import Guarantee
from sam3ray.store.lease import DriverLease
from sam3ray.store.retrying import RetryPolicy
from sam3ray.store.run import RunStore
from sam3ray.store.status import Status, read_status
from sam3ray.store.summary import ClipSummary
from sam3ray.store.verify import leftovers, spread_over_processes, verify_run

__all__ = [
    "RunStore",
    "ClipSummary",
    "CompactResult",
    "DriverLease",
    "Guarantee",
    "RetryPolicy",
    "Status",
    "compact_run",
    "read_status",
    "leftovers",
    "spread_over_processes",
    "verify_run",
]
