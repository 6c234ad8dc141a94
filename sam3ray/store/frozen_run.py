"""The fixed part of a run: its identity (`run.json`) and its frozen manifest."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from sam3ray.config import differences
from sam3ray.display.readable import counted
from sam3ray.failures import UserError, WorkerUnfit
from sam3ray.guard.redact import redact
from sam3ray.store import compacted, frozen, identity, layout
from sam3ray.store.creating import Guarantee
from sam3ray.store.lease import DriverLease, read_driver
from sam3ray.store.storage import Storage
from sam3ray.values.clip import Clip, Manifest
from sam3ray.values.prompts import MaskPrompt

_LOG = logging.getLogger(__name__)


class FrozenRun:
    """The part of a run's output that is written once, at its start, and read by every process that works on it."""

    def __init__(self, output: str, storage: Storage) -> None:
        self.output = output
        self.storage = storage
        self._manifest: pa.Table | None = None
        self._expected: tuple[str, str] | None = None  # run id and the id of the lease's holder

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
        """Freeze a new run's identity and manifest, or check that the existing run is the same.

        If several drivers start at once, the first to create `run.json` decides; the others open that run.

        Args:
            fingerprint: everything that changes results, as JSON values.
            config: the configuration to record, as JSON values. Credentials are masked.
            carried: the manifest's other columns, with row i for clip i; None: those of a `Manifest`, or of
                `Clip.carried`.
            extra: more entries for `run.json`, such as versions.

        Returns:
            True if this call created the run.

        Raises:
            UserError: the existing run has another fingerprint or manifest. Nothing was changed.
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
        """Start a run whose clips are not known in advance, such as a recording. It has no clips until `grow`.

        Raises:
            UserError: the folder already has a run.
        """
        self.storage.replace_bytes(frozen.to_parquet((), None), layout.MANIFEST)
        run = identity.describe_run(fingerprint, config, 0, frozen.digest(()), extra)
        if not self.storage.create_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN):
            raise UserError(f"{redact(self.output)} already holds a run")

    def grow(self, clips: Sequence[Clip]) -> None:
        """Replace the clips of a growing run. The caller must hold the lease.

        If the process dies in between, the manifest has one clip more than `run.json` counts; the next call corrects
        that.
        """
        run = self.run_info()
        self.storage.replace_bytes(frozen.to_parquet(clips, None), layout.MANIFEST)
        run["manifest"] = {"clips": len(clips), "sha256": frozen.digest(clips)}
        self.storage.replace_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN)
        self._manifest = None

    def is_started(self) -> bool:
        """Whether the run has any results: annotations, failure records, windows or merged files.

        A run without results does not restrict later jobs: see `discard_unstarted`.
        """
        folders = (layout.ANNOTATIONS, layout.FAILURES, layout.WINDOWS)
        return any(self.storage.names(folder) for folder in folders) or bool(compacted.read_index(self.storage))

    def discard_unstarted(self, fingerprint: Mapping[str, Any], clips: Sequence[Clip]) -> None:
        """Discard the existing run if its fingerprint or manifest differs and it has no results.

        The caller must hold the lease. If the process dies half-way, a manifest without `run.json` remains, which does
        not count as a run.
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
        """Why a job with this fingerprint and manifest cannot continue `run` (from `run_info`), if so."""
        try:
            self._check_same(run, fingerprint, clips, frozen.digest(clips))
        except UserError as error:
            return str(error)
        return None

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
        """The run's id, which stays the same if its folder is moved."""
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

    def clip_ids(self) -> list[str]:
        """The clips' ids."""
        return self.manifest_table().column("clip_id").to_pylist()

    def carried_columns(self) -> pa.Table:
        """The manifest's other columns, one row per clip, in the manifest's order."""
        return frozen.carried_columns(self.manifest_table())

    def first_sights(self) -> dict[str, str]:
        """The first sighting (`files.sighting`) of each clip's video, by clip id, if known."""
        return frozen.first_sights(self.manifest_table())

    def with_mask_digests(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips with the digests of their mask files when the run first read them."""
        digests = frozen.mask_digests(self.manifest_table())
        return [frozen.with_digests(clip, digests.get(clip.clip_id, ())) for clip in clips]

    def expect(self, lease: DriverLease) -> None:
        """Note the run and the holder of the lease, for `confirm` in other processes."""
        self._expected = (str(self.run_info().get("run_id", "")), lease.id)

    def confirm(self) -> None:
        """Check that this process sees the same storage as the holder of the lease.

        The run's id is not enough, because the folder may be a copy. The lease's record is: it was written when this
        job began.

        Raises:
            WorkerUnfit: this is a different folder of the same name, or the lease has another holder.
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
        for pause_s in (0.0, 0.5, 1.0, 2.0):  # a network file system may show the record late or in part
            time.sleep(pause_s)
            record = read_driver(self.storage)
            if record is not None and record["driver_id"] == holder:
                return
        raise WorkerUnfit(f"{here} is a copy of the run, or has been taken over by another driver; {advice}")

    def probe(self) -> Guarantee:
        """Test what enforces that each clip is committed once. See `creating`."""
        return self.storage.probe()

    def _freeze(self, clips: Sequence[Clip], carried: pa.Table | None, digest: str) -> None:
        """Write the manifest and read it back. An existing manifest without `run.json` is replaced.

        Raises:
            UserError: the manifest cannot be read back, or differs.
        """
        where = self.storage.shown(layout.MANIFEST)
        content = frozen.to_parquet(clips, carried)
        if not self.storage.create_bytes(content, layout.MANIFEST) and self.storage.read(layout.MANIFEST) != content:
            self.storage.replace_bytes(content, layout.MANIFEST)
        data = self.storage.read(layout.MANIFEST)
        if data is None or frozen.digest(frozen.clips_of(frozen.from_parquet(data, where), where)) != digest:
            raise UserError(f"{where} does not hold what was written to it; is something else writing to this output?")

    def _renew_addresses(self, clips: Sequence[Clip]) -> None:
        """Signed addresses expire: store the new ones for later readers of the frozen manifest, such as rendering."""
        table = frozen.with_addresses_of(self.manifest_table(), clips)
        if table is not None:
            self.storage.replace_bytes(frozen.table_bytes(table), layout.MANIFEST)
            self._manifest = table

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
            f"the run in {redact(self.output)} was started with another manifest of "
            f"{counted(run['manifest']['clips'], 'clip')}: "
            f"{detail}. Use another output, or continue with the frozen one: "
            f"manifest: {self.storage.shown(layout.MANIFEST)}"
        )


def _may_be_signed(clip: Clip) -> bool:
    return "?" in clip.uri or any(isinstance(each, MaskPrompt) and "?" in each.png for each in clip.visual_prompts)
