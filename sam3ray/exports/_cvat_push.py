"""Exports straight into a CVAT server: a task per clip, with frames as images and masks as shapes with scores.

CVAT's files cannot hold scores, but its API can. A task is complete once it has its shapes, which come last: an
interrupted call continues where it stopped. CVAT has no tracks of masks, so `group` and the attribute `object_id` keep
identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sam3ray.config import RunSource, run_place
from sam3ray.exports._export import Exported
from sam3ray.exports._folder import Folder
from sam3ray.exports._images import extract_images
from sam3ray.exports._labels import Choice, ClipLabels
from sam3ray.exports._pixels import crop_of
from sam3ray.exports._selection import choice_from, read_labels, select
from sam3ray.exports.cvat import row_major_runs
from sam3ray.failures import ClipError, UserError
from sam3ray.guard.redact import redact
from sam3ray.store import RunStore
from sam3ray.store.storage import Storage

if TYPE_CHECKING:
    from cvat_sdk import Client

    from sam3ray.values.clip import Clip

_ADDRESS = re.compile(r"(?P<host>https?://[^/?#]+)(/projects/(?P<project>[0-9]{1,9}))?/?")
_GROUPS = 2**31


def push_to_cvat(
    run: RunSource,
    to: str,
    *,
    clips: str | Sequence[str] | None = None,
    prompts: str | Sequence[str] | None = None,
    min_score: float = 0.0,
    every: int = 1,
    names: Mapping[str, str] | None = None,
    revision: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Creates a task for each clip that does not have one yet for this run, revision and choice.

    Credentials come from the environment: CVAT_ACCESS_TOKEN, or CVAT_USERNAME and CVAT_PASSWORD; and
    CVAT_ORGANIZATION, if any.

    Args:
        to: the server, as in `https://app.cvat.ai`, or a project on it, as in `https://app.cvat.ai/projects/7`. The
            project must have the labels.
        clips, prompts, min_score, every, names, revision: as `export`.

    Raises:
        UserError: an argument is not usable, cvat-sdk is not installed, or the server rejects a call.
    """
    host, project = _address(to)
    choice = choice_from(clips, prompts, min_score, every, names)
    store = RunStore(*run_place(run, storage_options))
    selected = select(store, choice, revision)
    wanted, categories = selected.clips, selected.categories
    server = _Server(host, project, list(categories), _mark(store, selected.revision, choice))
    failed: dict[str, str] = {}
    done = already = frames = rows = 0
    for count, clip in enumerate(wanted, 1):
        try:
            corrections = selected.operations.get(clip.clip_id, ())
            labels = read_labels(store, clip, selected.numbers[clip.clip_id], categories, choice, corrections)
            if server.push(store, clip, labels):
                done += 1
            else:
                already += 1
            frames += len(labels.frames)
            rows += sum(map(len, labels.objects.values()))
        except (ClipError, ValueError, FileNotFoundError) as error:
            failed[clip.clip_id] = redact(" ".join(str(error).split()))[:500]
        if progress is not None:
            progress(count, len(wanted))
    return Exported(done, already, frames, rows, failed, {"track_scores": rows} if rows else {}, selected.unknown_names)


def _mark(store: RunStore, revision: int | None, choice: Choice) -> str:
    """A mark in the names of this export's tasks, by which they are found again: a server has no `export.json`."""
    of_choice = [choice.prompts, choice.min_score, choice.every, sorted((choice.names or {}).items())]
    told = json.dumps([store.run_id(), revision, *of_choice])
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _address(to: str) -> tuple[str, int | None]:
    found = _ADDRESS.fullmatch(to)
    if found is None or urlsplit(found["host"]).username is not None:
        raise UserError(
            f"--to {redact(to)}: allowed: a CVAT server or one of its projects, as in https://app.cvat.ai/projects/7, "
            "without user and password; credentials come from CVAT_ACCESS_TOKEN, or CVAT_USERNAME and CVAT_PASSWORD"
        )
    return found["host"], None if found["project"] is None else int(found["project"])


class _Server:
    """The calls to a CVAT server."""

    def __init__(self, host: str, project: int | None, names: Sequence[str], mark: str) -> None:
        try:
            from cvat_sdk import exceptions, make_client
            from cvat_sdk.core.exceptions import CvatSdkException
        except ImportError:
            raise UserError("pushing to CVAT needs cvat-sdk: pip install sam3ray[cvat]") from None
        from urllib3.exceptions import HTTPError

        self._errors = (exceptions.ApiException, CvatSdkException, HTTPError)
        self._host, self._project, self._names, self._mark = host, project, names, mark
        token, user = os.environ.get("CVAT_ACCESS_TOKEN"), os.environ.get("CVAT_USERNAME")
        if token is None and user is None:
            raise UserError("the server needs credentials: set CVAT_ACCESS_TOKEN, or CVAT_USERNAME and CVAT_PASSWORD")
        login: dict[str, Any] = {"access_token": token}
        if token is None:
            login = {"credentials": (user, os.environ.get("CVAT_PASSWORD", ""))}
        try:
            self._client: Client = make_client(host, **login)
            if organization := os.environ.get("CVAT_ORGANIZATION"):
                self._client.organization_slug = organization
            self._client.users.retrieve_current_user()  # the server checks a token only when it is used
        except self._errors as error:
            raise UserError(f"{host} cannot be used: {_why(error)}") from None

    def push(self, store: RunStore, clip: Clip, labels: ClipLabels) -> bool:
        """Pushes one clip. Returns whether there was anything to do.

        Raises:
            ValueError: the server rejects a call.
        """
        try:
            return self._push(store, clip, labels)
        except self._errors as error:
            raise ValueError(f"{self._host} rejects the task: {_why(error)}") from None

    def _push(self, store: RunStore, clip: Clip, labels: ClipLabels) -> bool:
        name = self._name(clip)
        wanted = {"name": name, **({} if self._project is None else {"project_id": self._project})}
        found, _ = self._client.api_client.tasks_api.list(**wanted)
        tasks = [each for each in found.results if each.name == name]
        task = self._client.tasks.retrieve(tasks[0].id) if tasks else self._client.tasks.create(self._spec(clip))
        if task.size and (not labels.objects or task.get_annotations().shapes):
            return False
        if not task.size:
            self._upload(task, store, clip, labels)
        if labels.objects:
            task.set_annotations(self._annotations(task, labels))
        return True

    def _name(self, clip: Clip) -> str:
        return f"{clip.clip_id} [{self._mark}]"

    def _spec(self, clip: Clip) -> Any:
        from cvat_sdk import models

        if self._project is not None:
            return models.TaskWriteRequest(name=self._name(clip), project_id=self._project)
        number = models.AttributeRequest(
            name="object_id", mutable=False, input_type="number", default_value="0", values=["0", "2147483647", "1"]
        )
        labels = [models.PatchedLabelRequest(name=name, attributes=[number]) for name in self._names]
        return models.TaskWriteRequest(name=self._name(clip), labels=labels)

    def _upload(self, task: Any, store: RunStore, clip: Clip, labels: ClipLabels) -> None:
        with tempfile.TemporaryDirectory() as work:
            with Folder(Storage(work)) as folder:
                extract_images(store, clip, labels, lambda frame, _: f"frame_{frame:06d}.jpg", folder)
            images = [Path(work, f"frame_{frame:06d}.jpg") for frame in labels.frames]
            task.upload_data(images, params={"sorting_method": "predefined", "image_quality": 95})

    def _annotations(self, task: Any, labels: ClipLabels) -> Any:
        from cvat_sdk import models

        known = {label.name: label for label in task.get_labels()}
        missing = sorted({item.prompt for items in labels.objects.values() for item in items} - known.keys())
        if missing:
            raise ValueError(f"the project has no label {missing[0]!r}: add it, or rename with --labels")
        shapes = []
        for frame, items in labels.objects.items():
            for item in items:
                crop = crop_of(item, labels.height, labels.width)
                height, width = crop.pixels.shape
                corners = [crop.left, crop.top, crop.left + width - 1, crop.top + height - 1]
                label = known[item.prompt]
                ids = [each.id for each in label.attributes if each.name == "object_id"]
                shapes.append(
                    models.LabeledShapeRequest(
                        type="mask",
                        frame=labels.place[frame],
                        label_id=label.id,
                        group=item.object_id % _GROUPS,
                        points=[float(n) for n in (*row_major_runs(crop.pixels), *corners)],
                        score=float(item.score),
                        source="auto",
                        attributes=[
                            models.AttributeValRequest(spec_id=number, value=str(item.object_id)) for number in ids
                        ],
                    )
                )
        return models.LabeledDataRequest(version=0, tags=[], shapes=shapes, tracks=[])


def _why(error: Exception) -> str:
    status, body = getattr(error, "status", None), getattr(error, "body", None)
    text = body if isinstance(body, str) and body else str(error)
    return redact(" ".join(f"{status or ''} {text}".split()))[:300]
