"""A run's output folder: who it is, what is done, what failed; and the one way to add to it.

What is on storage if a process dies, step by step:

* `create_or_open`: nothing, or `manifest.parquet` alone, or both `manifest.parquet` and `run.json`. The middle state
  is no run yet: the next call replaces it. Runs of 0.1.0 can have `run.json` alone; the next call with the same config
  and manifest completes them.
* `commit`, `publish_video`, `record_failure`: the file is whole or absent.
* `write_clips_table`: the old table or the new one.
* `clear_failures`: some records gone, others not; calling it again finishes the work.

On storage that needs named temporaries one may be left in `.tmp/`; the next driver removes it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sam3ray.config import differences
from sam3ray.failures import Failure, Reason, UserError, WorkerUnfit
from sam3ray.guard.redact import redact
from sam3ray.store import compacted, failure_records, frozen, identity, layout, summary, windows
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.store.creating import Guarantee
from sam3ray.store.lease import DriverLease, read_driver
from sam3ray.store.retrying import RetryPolicy
from sam3ray.store.storage import Storage
from sam3ray.store.summary import ClipSummary
from sam3ray.values.clip import Clip, Manifest
from sam3ray.values.prompts import MaskPrompt

_LOG = logging.getLogger(__name__)

_FOOTER_BYTES = 16 * 1024  # holds the footer of nearly every clip's file


class RunStore:
    """The output of one run, on any fsspec storage. Picklable; does nothing until it is asked.

    Every method may raise `JobStopped` (storage refuses: permission, credentials, no such bucket, disk full) or
    `ClipError` of reason `storage` (unreachable after retries with back-off). No message holds a credential.

    Args:
        output: the run's folder: a path or a URI.
        storage_options: fsspec options; not used for local paths.
        retry: how patiently storage errors are retried.
    """

    def __init__(
        self,
        output: str,
        storage_options: Mapping[str, Any] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.output = output
        self.storage = Storage(output, storage_options, retry)
        self._manifest: pa.Table | None = None
        self._lookup = compacted.Lookup(self.storage)
        self._expected: tuple[str, str] | None = None  # run id, and the id of the lease's holder

    def __repr__(self) -> str:
        return f"RunStore({redact(self.output)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"output": self.output, "storage": self.storage, "_manifest": None, "_expected": self._expected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lookup = compacted.Lookup(self.storage)

    # ---- identity

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return self.storage.exists(layout.RUN)

    def create_or_open(
        self,
        fingerprint: Mapping[str, Any],
        config: Mapping[str, Any],
        clips: Sequence[Clip],
        carried: pa.Table | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Freeze a new run's identity and manifest, or make sure that the run here is the same one.

        Of several drivers that start at once, the one whose `run.json` is created decides; the others open it.

        Args:
            fingerprint: all that changes results, as JSON values.
            config: for the record, as JSON values. Credentials are masked.
            carried: the manifest's other columns, row i belonging to clip i; None: those of a `Manifest`, or what
                `Clip.carried` holds.
            extra: more for `run.json`: versions.

        Returns:
            True if this call created the run.

        Raises:
            UserError: the run here has another fingerprint or manifest. Nothing has been touched.
        """
        if carried is None and isinstance(clips, Manifest):
            carried = clips.carried
        digest = frozen.digest(clips)
        created = False
        data = self.storage.read(layout.RUN)
        if data is None:
            self._freeze(clips, carried, digest)
            run = identity.describe_run(fingerprint, config, len(clips), digest, extra)
            created = self.storage.create_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN)
            data = None if created else self.storage.read(layout.RUN)
        if not created:
            if data is None:
                raise UserError(
                    f"{self.storage.shown(layout.RUN)} vanished while it was read; is the output being deleted?"
                )
            self._check_same(identity.parse(data, self.storage.shown(layout.RUN)), fingerprint, clips, digest)
            if not self.storage.exists(layout.MANIFEST):
                self._freeze(clips, carried, digest)
            elif any(_may_be_signed(clip) for clip in clips):
                self._renew_addresses(clips)
        if self.probe() is Guarantee.CHECKED:
            _LOG.warning(
                "%s does not enforce create-if-absent: if two drivers ran at once, both could commit a clip, and "
                "the later "
                "file would win. Run one driver at a time.",
                redact(self.output),
            )
        return created

    def create_growing(
        self, fingerprint: Mapping[str, Any], config: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> None:
        """Begin a run whose clips are not known beforehand, as a recording's: it has none until `grow`.

        Raises:
            UserError: there is a run here.
        """
        self.storage.replace_bytes(frozen.to_parquet((), None), layout.MANIFEST)
        run = identity.describe_run(fingerprint, config, 0, frozen.digest(()), extra)
        if not self.storage.create_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN):
            raise UserError(f"{redact(self.output)} already holds a run")

    def grow(self, clips: Sequence[Clip]) -> None:
        """The clips that a growing run has now. For the holder of the lease.

        If the process dies in between, the manifest names a clip more than `run.json` counts; the next call makes
        them agree again.
        """
        run = self.run_info()
        self.storage.replace_bytes(frozen.to_parquet(clips, None), layout.MANIFEST)
        run["manifest"] = {"clips": len(clips), "sha256": frozen.digest(clips)}
        self.storage.replace_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN)
        self._manifest = None

    def _freeze(self, clips: Sequence[Clip], carried: pa.Table | None, digest: str) -> None:
        """Write the manifest and read it back. One that lies here without a run.json froze nothing: it is replaced.

        Raises:
            UserError: what was written cannot be read, or reads otherwise.
        """
        where = self.storage.shown(layout.MANIFEST)
        content = frozen.to_parquet(clips, carried)
        if not self.storage.create_bytes(content, layout.MANIFEST) and self.storage.read(layout.MANIFEST) != content:
            self.storage.replace_bytes(content, layout.MANIFEST)
        data = self.storage.read(layout.MANIFEST)
        if data is None or frozen.digest(frozen.clips_of(frozen.from_parquet(data, where), where)) != digest:
            raise UserError(f"{where} does not hold what was written to it; is something else writing to this output?")

    def _renew_addresses(self, clips: Sequence[Clip]) -> None:
        """Signed addresses expire: whoever reads the frozen manifest next (rendering, say) needs the new ones."""
        table = frozen.with_addresses_of(self.manifest_table(), clips)
        if table is not None:
            self.storage.replace_bytes(frozen.table_bytes(table), layout.MANIFEST)
            self._manifest = table

    def is_started(self) -> bool:
        """Whether anything has come of the run: annotations, failure records, windows or merged files.

        A run without results binds no later job: see `discard_unstarted`.
        """
        folders = (layout.ANNOTATIONS, layout.FAILURES, layout.WINDOWS)
        return any(self.storage.names(folder) for folder in folders) or bool(compacted.read_index(self.storage))

    def discard_unstarted(self, fingerprint: Mapping[str, Any], clips: Sequence[Clip]) -> None:
        """Make way for a run of this fingerprint and manifest where the one here differs and has never started.

        For the holder of the lease. If the process dies half-way there is a manifest without a `run.json`, which
        counts for nothing.
        """
        data = self.storage.read(layout.RUN)
        if data is None:
            return
        run = identity.parse(data, self.storage.shown(layout.RUN))
        if self.refusal(run, fingerprint, clips) is None or self.is_started():
            return
        _LOG.warning("the run in %s had not labelled anything yet and is replaced", redact(self.output))
        self.storage.delete(layout.RUN)
        self.storage.delete(layout.CLIPS)
        self._manifest = None

    def refusal(self, run: Mapping[str, Any], fingerprint: Mapping[str, Any], clips: Sequence[Clip]) -> str | None:
        """Why a job of this fingerprint and manifest is not the one that `run` (of `run_info`) describes, if so."""
        try:
            self._check_same(run, fingerprint, clips, frozen.digest(clips))
        except UserError as error:
            return str(error)
        return None

    def _check_same(
        self, run: Mapping[str, Any], fingerprint: Mapping[str, Any], clips: Sequence[Clip], digest: str
    ) -> None:
        if sentence := identity.outdated(run["fingerprint"], fingerprint, self.output):
            raise UserError(sentence)
        problems = differences(identity.normalised(fingerprint), run["fingerprint"])
        if problems:
            raise UserError(
                f"the run in {redact(self.output)} has a different fingerprint: {'; '.join(problems)}. "
                "Use another output, or the settings that it was started with"
            )
        if run["manifest"]["sha256"] == digest:
            return
        detail = "its manifest was never written"
        if self.storage.exists(layout.MANIFEST):
            detail = frozen.differences(self.manifest(), clips) or "their rows differ"
        raise UserError(
            f"the run in {redact(self.output)} was started with another manifest of {run['manifest']['clips']} clips: "
            f"{detail}. Use another output, or continue with the frozen one: "
            f"manifest: {self.storage.shown(layout.MANIFEST)}"
        )

    def run_info(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: there is no run here.
        """
        data = self.storage.read(layout.RUN)
        if data is None:
            raise UserError(f"there is no run in {redact(self.output)}: it has no {layout.RUN}")
        return identity.parse(data, self.storage.shown(layout.RUN))

    def run_id(self) -> str:
        """What tells this run from others, wherever it lies."""
        run = self.run_info()
        return str(run.get("run_id") or run["manifest"]["sha256"])

    def manifest_table(self) -> pa.Table:
        """The frozen manifest; read once."""
        if self._manifest is None:
            data = self.storage.read(layout.MANIFEST)
            if data is None:
                raise UserError(
                    f"there is no {layout.MANIFEST} in {redact(self.output)}: the run stopped while it was starting; "
                    "run it again with the same config"
                )
            self._manifest = frozen.from_parquet(data, self.storage.shown(layout.MANIFEST))
        return self._manifest

    def manifest(self) -> list[Clip]:
        """The clips of the run, in the manifest's order."""
        return frozen.clips_of(self.manifest_table(), self.storage.shown(layout.MANIFEST))

    def carried_columns(self) -> pa.Table:
        """The manifest's other columns, one row a clip, in the manifest's order."""
        return frozen.carried_columns(self.manifest_table())

    def first_sights(self) -> dict[str, str]:
        """How each clip's video looked when the run first saw it (`files.sighting`), by clip id, where known."""
        return frozen.first_sights(self.manifest_table())

    def with_mask_digests(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips, with the digests that their mask files had when the run first read them."""
        digests = frozen.mask_digests(self.manifest_table())
        return [frozen.with_digests(clip, digests.get(clip.clip_id, ())) for clip in clips]

    def clip_ids(self) -> list[str]:
        """Their ids."""
        return self.manifest_table().column("clip_id").to_pylist()

    def path(self, *parts: str) -> str:
        """The full address of something in the run."""
        return self.storage.address("/".join(parts))

    # ---- one storage for all

    def expect(self, lease: DriverLease) -> None:
        """Note whose run this is, for `confirm` in the processes that this store is sent to."""
        self._expected = (str(self.run_info().get("run_id", "")), lease.id)

    def confirm(self) -> None:
        """Make sure that this process sees the storage that the holder of the lease works on.

        The run's id may have been copied along with its folder. The lease's record is the token that cannot have been:
        it was written when this job began.

        Raises:
            WorkerUnfit: another folder of the same name, or another holder.
        """
        if self._expected is None:
            return
        run_id, holder = self._expected
        here = f"{self.storage.shown()} as {socket.gethostname()} sees it"
        advice = "an output must be on storage that all nodes share: s3://, gs://, az:// or a shared file system"
        data = self.storage.read(layout.RUN)
        if data is None:
            raise WorkerUnfit(f"{here} has no run; {advice}")
        found = identity.parse(data, self.storage.shown(layout.RUN)).get("run_id", "")
        if found != run_id:
            raise WorkerUnfit(f"{here} holds the run {str(found)[:40]!r}, not {run_id!r}; {advice}")
        for pause_s in (0.0, 0.5, 1.0, 2.0):  # a network file system may show the record late, or half of it
            time.sleep(pause_s)
            record = read_driver(self.storage)
            if record is not None and record["driver_id"] == holder:
                return
        raise WorkerUnfit(f"{here} is a copy of the run, or has been taken over by another driver; {advice}")

    # ---- what is done

    def done_ids(self, told: Callable[[int], None] | None = None) -> set[str]:
        """Finished clips, by one listing (and the index of merged files).

        Args:
            told: is told now and then how many have been listed.
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
        """Make a finished annotation file the clip's: whole, and only if the clip has none.

        Returns:
            True: this call created it. False: the clip was done already; nothing has changed.
        """
        path = layout.annotation_path(clip_id)
        # Where merged files have taken the place of a clip's own, its name is free again.
        if self._lookup.find(clip_id) is not None:
            return False
        return self.storage.create(os.fspath(local_path), path)

    def read_clip(self, clip_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The annotations of one clip, sorted by (frame_index, object_id).

        Args:
            columns: only these; None is all.

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
            dataset = ds.dataset(part, filesystem=self.storage.arrow(), format="parquet")
            return dataset.to_table(columns, filter=ds.field("clip_id") == clip_id)

        return self.storage.retrying("read", layout.part_path(held.part), read)

    def read_clip_metadata(self, clip_id: str) -> dict[str, Any]:
        """Where a finished clip came from: {"schema_version", "fingerprint", "clip", "model", "software"}.

        Raises:
            FileNotFoundError: the clip is not done.
            ValueError: the file is no annotation file.
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
            raise ValueError(f"{self.storage.shown(path)} is not a Parquet file: {error}") from None

    # ---- failures

    def record_failure(self, failure: Failure) -> int:
        """Add a record of a failed attempt; returns its number."""
        return failure_records.write(self.storage, failure)

    def failure_counts(self) -> dict[str, int]:
        """How many attempts are on record for each clip, by one listing."""
        return {clip_id: len(numbers) for clip_id, numbers in failure_records.list_attempts(self.storage).items()}

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

        Records of a clip go last first: what settles a clip goes before what only counts.

        Args:
            check: is called before each deletion, and may raise: `DriverLease.check`.
            from_start: their windows, too: those clips begin at their first frame again.

        Returns:
            How many clips were cleared.
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
        """Put an annotated video in place. True if this call did; False if there was one and `overwrite` is not set.

        Args:
            revision: with the corrections up to this one; 0: of the model's own annotations.
        """
        path = layout.video_path(clip_id, revision)
        if overwrite:
            self.storage.replace(os.fspath(local_path), path)
            return True
        return self.storage.create(os.fspath(local_path), path)

    def rendered_ids(self, revision: int = 0) -> set[str]:
        """Clips that have an annotated video, of a revision or of the model's own annotations, by one listing."""
        names = self.storage.names(layout.videos_folder(revision))
        return {clip_id for name in names if (clip_id := layout.clip_of(name, ".mp4")) is not None}

    # ---- the table of clips

    def summary_of(self, clip_id: str) -> ClipSummary:
        """What the attempt that finished this clip found.

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
        """What became of each clip, from storage alone.

        Two listings say what is done and what failed. The figures come from `clips.parquet`, which a driver renews
        now and then, and for clips finished since from their own files, in parallel.

        Args:
            done_ids: if the caller has just listed them.
            records: all failure records, if the caller has just read them.
            told: is told now and then of how many clips there is news.
        """
        done = self.done_ids(told) if done_ids is None else done_ids
        attempts: dict[str, list[int]] = {}
        if records is None:
            attempts = failure_records.list_attempts(self.storage, told)
        for record in records or ():
            attempts.setdefault(record.clip_id, []).append(len(attempts.get(record.clip_id, ())) + 1)
        data = self.storage.read(layout.CLIPS)
        known = summary.from_parquet(data) if data is not None else {}
        ids = self.clip_ids()
        found: dict[str, ClipSummary] = {}
        unknown: list[str] = []
        for clip_id in ids:
            if clip_id in done:
                old = known.get(clip_id)
                if old is not None and old.status == "done":
                    found[clip_id] = old
                else:
                    unknown.append(clip_id)
        index = compacted.read_index(self.storage) if unknown else {}

        def look(clip_id: str) -> ClipSummary:
            try:
                values = index[clip_id].values() if clip_id in index else self._footer(clip_id)
                return summary.from_clip_metadata(clip_id, values["clip"], len(attempts.get(clip_id, ())))
            except (FileNotFoundError, KeyError, ValueError):  # done, and damaged: `verify` says how
                return summary.from_clip_metadata(clip_id, {}, len(attempts.get(clip_id, ())))

        for number, item in enumerate(self.storage.each(look, unknown), 1):
            found[item.clip_id] = item
            if told is not None and number % 100 == 0:
                told(number)
        failed = [clip_id for clip_id in ids if clip_id not in done and clip_id in attempts]
        if records is None:
            records = failure_records.read_many(self.storage, ((c, n) for c in failed for n in attempts[c]))
        by_clip: dict[str, list[Failure]] = {}
        for record in records:
            by_clip.setdefault(record.clip_id, []).append(record)
        for clip_id in ids:
            if clip_id not in found:
                found[clip_id] = summarise_failures(clip_id, by_clip.get(clip_id, []))
        return found

    def write_clips_table(self, summaries: Mapping[str, ClipSummary]) -> None:
        """Renew `clips.parquet`, in one step. Clips that are not in the mapping are "left"."""
        self.storage.replace_bytes(summary.to_parquet(self.manifest_table(), summaries), layout.CLIPS)

    # ---- drivers

    def lease(self, task: str = "run") -> DriverLease:
        """The right to change this run: `with store.lease() as lease: ...`. See `DriverLease`.

        Args:
            task: what for, as others are told.
        """
        return DriverLease(self.storage, task=task)

    def probe(self) -> Guarantee:
        """Who enforces that a clip is committed once here, found out by trying. See `creating`."""
        return self.storage.probe()


def _may_be_signed(clip: Clip) -> bool:
    return "?" in clip.uri or any(isinstance(each, MaskPrompt) and "?" in each.png for each in clip.visual_prompts)


def summarise_failures(clip_id: str, records: Sequence[Failure]) -> ClipSummary:
    """The summary of a clip that is not done, from its failure records in order."""
    if not records:
        return ClipSummary(clip_id)
    settling = [record for record in records if failure_records.is_settled([record])]
    last = settling[-1] if settling else records[-1]
    return ClipSummary(
        clip_id,
        "failed" if settling else "left",
        reason=last.reason.value,
        message=last.message,
        attempts=len(records),
    )
