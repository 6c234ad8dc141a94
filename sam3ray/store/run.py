"""A run's output folder: its finished and failed clips, and the only way to add to them.

What is on storage if a process dies, step by step:

* `create_or_open`: nothing, or `manifest.parquet` alone, or both `manifest.parquet` and `run.json`. The manifest
  alone is not a run yet: the next call replaces it. Runs of 0.1.0 can have `run.json` alone; the next call with the
  same config and manifest completes them.
* `commit`, `publish_video`, `record_failure`: the file is complete or absent.
* `write_clips_table`: the old table or the new one.
* `clear_failures`: some records are deleted, others not; calling it again deletes the rest.

On storage that needs named temporary files, one may be left in `.tmp/`; the next driver removes it.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.failures import Failure, Reason
from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.redact import redact
from sam3ray.store import compacted, failure_records, layout, summary, windows
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.store.frozen_run import FrozenRun
from sam3ray.store.lease import DriverLease
from sam3ray.store.outcomes import outcomes
from sam3ray.store.retrying import RetryPolicy
from sam3ray.store.storage import Storage
from sam3ray.store.summary import ClipSummary

_LOG = logging.getLogger(__name__)

_FOOTER_BYTES = 16 * 1024  # enough for the footer of nearly every clip's file


class RunStore(FrozenRun):
    """The output of one run, on any fsspec storage. Picklable; creating one makes no request.

    Every method may raise `JobStopped` (storage rejects the call: permission, credentials, no such bucket, disk full)
    or `ClipError` of reason `storage` (unreachable after retries with back-off). No message holds a credential.

    Args:
        output: the run's folder: a path or a URI.
        storage_options: fsspec options; not used for local paths.
        retry: how storage errors are retried.
    """

    def __init__(
        self,
        output: str,
        storage_options: Mapping[str, Any] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__(output, Storage(output, storage_options, retry))
        self._lookup = compacted.Lookup(self.storage)

    def __repr__(self) -> str:
        return f"RunStore({redact(self.output)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"output": self.output, "storage": self.storage, "_manifest": None, "_expected": self._expected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lookup = compacted.Lookup(self.storage)

    def path(self, *parts: str) -> str:
        """The full address of a path in the run."""
        return self.storage.address("/".join(parts))

    # ---- what is done

    def done_ids(self, told: Callable[[int], None] | None = None) -> set[str]:
        """Finished clips, by one listing (and the index of merged files).

        Args:
            told: called from time to time with the number listed.
        """
        names = self.storage.names(layout.ANNOTATIONS, told)  # before the index: see `reading.dataset_of`
        ids = {clip_id for name in names if (clip_id := layout.clip_of(name, ".parquet")) is not None}
        return ids | compacted.read_index(self.storage).keys()

    def is_done(self, clip_id: str) -> bool:
        """Whether this clip is finished."""
        if self.storage.exists(layout.annotation_path(clip_id)):
            return True
        return self._lookup.find(clip_id) is not None

    def commit(self, clip_id: str, local_path: str | os.PathLike[str]) -> bool:
        """Commit a finished annotation file as the clip's, if the clip has none yet.

        Returns:
            True: this call created the file. False: the clip was already done; nothing has changed.
        """
        path = layout.annotation_path(clip_id)
        # If a merged file has replaced the clip's own file, the name is free again.
        if self._lookup.find(clip_id) is not None:
            return False
        return self.storage.create(os.fspath(local_path), path)

    def read_clip(self, clip_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The annotations of one clip, sorted by (frame_index, object_id).

        Args:
            columns: read only these; None: all.

        Raises:
            FileNotFoundError: the clip is not done.
        """
        path = layout.annotation_path(clip_id)
        with self.storage.fetched(path) as local:
            if local is not None:
                return pq.ParquetFile(local).read(columns)
        held = self._lookup.find(clip_id)
        if held is None:
            raise FileNotFoundError(f"clip {clip_id} is not done: there is no {self.storage.shown(path)}")
        part = self.storage.full(layout.part_path(held.part))

        def read() -> pa.Table:
            import pyarrow.dataset as ds  # see `store.reading`

            dataset = ds.dataset(part, filesystem=self.storage.arrow(), format="parquet")
            return dataset.to_table(columns, filter=ds.field("clip_id") == clip_id)

        return self.storage.retrying("read", layout.part_path(held.part), read)

    def read_clip_metadata(self, clip_id: str) -> dict[str, Any]:
        """The provenance of a finished clip: {"schema_version", "fingerprint", "clip", "model", "software"}.

        Raises:
            FileNotFoundError: the clip is not done.
            ValueError: the file is not an annotation file.
        """
        try:
            return self._footer(clip_id)
        except FileNotFoundError:
            held = self._lookup.find(clip_id)
            if held is None:
                raise
            return held.values()

    def _footer(self, clip_id: str) -> dict[str, Any]:
        path = layout.annotation_path(clip_id)
        tail = self.storage.read_tail(path, _FOOTER_BYTES)
        if tail is None:
            raise FileNotFoundError(f"clip {clip_id} is not done: there is no {self.storage.shown(path)}")
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) == _FOOTER_BYTES < needed:
            tail = self.storage.read_tail(path, needed) or b""
        try:
            return read_file_metadata(pq.read_metadata(io.BytesIO(b"PAR1" + tail)))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.storage.shown(path)} cannot be read as Parquet: {why_unreadable(error)}") from None

    # ---- failures

    def record_failure(self, failure: Failure) -> int:
        """Add a record of a failed attempt; returns its number."""
        return failure_records.write(self.storage, failure)

    def failures(self) -> list[Failure]:
        """All records, by clip and attempt."""
        attempts = failure_records.list_attempts(self.storage)
        return failure_records.read_many(
            self.storage, ((clip_id, n) for clip_id in sorted(attempts) for n in attempts[clip_id])
        )

    def clear_failures(
        self,
        reasons: Iterable[Reason | str] | None = None,
        check: Callable[[], None] = lambda: None,
        *,
        from_start: bool = False,
    ) -> int:
        """Delete the records of all clips, or of those whose last attempt failed for one of these reasons.

        A clip's records are deleted from the last to the first, because the last one settles the clip.

        Args:
            check: called before each deletion, and may raise, as `DriverLease.check` does.
            from_start: also delete their windows, so those clips start again at their first frame.

        Returns:
            The number of clips cleared.
        """
        attempts = failure_records.list_attempts(self.storage)
        if reasons is not None:
            wanted = {Reason(reason) for reason in reasons}
            last = failure_records.read_many(self.storage, ((clip_id, n[-1]) for clip_id, n in attempts.items()))
            attempts = {record.clip_id: attempts[record.clip_id] for record in last if record.reason in wanted}

        def clear(clip_id: str) -> None:
            if from_start:
                check()
                windows.clear_windows(self.storage, [clip_id])
            for number in reversed(attempts[clip_id]):
                check()
                self.storage.delete(layout.failure_path(clip_id, number))
            self.storage.delete_empty_folder(layout.failure_folder(clip_id))

        for _ in self.storage.each(clear, attempts):
            pass
        return len(attempts)

    # ---- videos

    def publish_video(
        self, clip_id: str, local_path: str | os.PathLike[str], overwrite: bool = False, revision: int = 0
    ) -> bool:
        """Publish an annotated video. False if one exists and `overwrite` is not set, else True.

        Args:
            revision: the revision that the video shows; 0: the model's own annotations.
        """
        path = layout.video_path(clip_id, revision)
        if overwrite:
            self.storage.replace(os.fspath(local_path), path)
            return True
        return self.storage.create(os.fspath(local_path), path)

    def rendered_ids(self, revision: int = 0) -> set[str]:
        """Clips with an annotated video of a revision or of the model's own annotations (0), by one listing."""
        names = self.storage.names(layout.videos_folder(revision))
        return {clip_id for name in names if (clip_id := layout.clip_of(name, ".mp4")) is not None}

    # ---- the table of clips

    def summary_of(self, clip_id: str) -> ClipSummary:
        """The summary of the attempt that finished this clip.

        Raises:
            FileNotFoundError: the clip is not done.
            ValueError: its file is damaged.
        """
        return summary.from_clip_metadata(clip_id, self.read_clip_metadata(clip_id)["clip"], 0)

    def summaries(
        self,
        done_ids: set[str] | None = None,
        records: Sequence[Failure] | None = None,
        told: Callable[[int], None] | None = None,
    ) -> dict[str, ClipSummary]:
        """The outcome of each clip, from storage alone: see `outcomes`.

        Args:
            done_ids: finished clips, if the caller has just listed them.
            records: all failure records, if the caller has just read them.
            told: called from time to time with the number of clips read.
        """
        done = self.done_ids(told) if done_ids is None else done_ids
        return outcomes(self.storage, self.clip_ids(), done, records, self._footer, told)

    def write_clips_table(self, summaries: Mapping[str, ClipSummary]) -> None:
        """Replace `clips.parquet`, in one step. Clips that are not in the mapping are "left"."""
        self.storage.replace_bytes(summary.to_parquet(self.manifest_table(), summaries), layout.CLIPS)

    # ---- drivers

    def lease(self, task: str = "run") -> DriverLease:
        """The right to change this run: `with store.lease() as lease: ...`. See `DriverLease`.

        Args:
            task: the purpose, which other processes report.
        """
        return DriverLease(self.storage, task=task)
