"""A run as a PyTorch dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from sam3ray.config import RunSource, VideoConfig, run_place
from sam3ray.loading._frames import Choice, RunFrames
from sam3ray.masks import decode_rle
from sam3ray.store import RunStore
from sam3ray.values.phrases import as_names


class RunDataset(Dataset[Any]):
    """The annotated frames of a run, in the manifest's order, without frames that have no objects.

    An item is a dict:

        image         uint8 tensor (3, height, width), RGB, as displayed
        masks         bool tensor (n, height, width)
        boxes         float32 tensor (n, 4): xmin, ymin, xmax, ymax in pixels, max exclusive
        object_ids    int64 tensor (n,)
        prompts       list of n phrases
        scores, track_scores    float32 tensors (n,)
        clip_id, frame_index, time_s    where the frame comes from

    Opening it reads every clip's frame times, but no masks. Reading an item reads its clip's rows (those of the last
    few clips stay in memory) and decodes its frame. Going on to the clip's next frame is fast; any other frame needs a
    seek, which is exact. To shuffle without a seek per item, use `ByClip`. The workers of a `DataLoader` may read it:
    each opens its own videos.

    Args:
        run: the output folder, on any fsspec storage, or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they override those of the configuration.
        clips: ids of clips; None for all finished clips.
        prompts: read only objects of these phrases, and only frames that have one.
        every: read every n-th frame of a clip.
        revision: None for the model's own rows; "latest" or a number applies the corrections up to that revision.
        transform: called with each item; its result replaces the item.
        video: limits on videos, and where to keep remote ones while reading.

    Raises:
        UserError: the run, a finished clip or the revision does not exist.
        ClipError: when reading an item, if its video cannot be read or has changed since it was annotated.
    """

    def __init__(
        self,
        run: RunSource,
        storage_options: Mapping[str, Any] | None = None,
        *,
        clips: str | Sequence[str] | None = None,
        prompts: str | Sequence[str] | None = None,
        every: int = 1,
        revision: int | str | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        video: VideoConfig | None = None,
    ) -> None:
        output, options = run_place(run, storage_options)
        names, phrases = as_names(clips, "clips"), as_names(prompts, "prompts")
        choice = Choice(None if names is None else tuple(names), None if phrases is None else tuple(phrases), every)
        store = RunStore(output, options)
        self._frames = RunFrames(store, options, choice, revision, video)
        self._transform = transform
        found = list(store.storage.each(self._frames.times, self._frames.clips))
        counts = [len(index) for index, _ in found]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """Where each clip's frames begin, and the end: n + 1 numbers for n clips."""
        self._index = np.concatenate([np.zeros(0, np.int64), *(index for index, _ in found)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, at: int) -> Any:
        if not -len(self) <= at < len(self):
            raise IndexError(f"item {at} of {len(self)}")
        at %= len(self)
        clip = self._frames.clips[int(np.searchsorted(self.starts, at, side="right")) - 1]
        frame = self._frames.frames(clip)[int(self._index[at])]
        image = self._frames.picture(clip, frame).image
        masks = [decode_rle(item.rle, frame.height, frame.width) for item in frame.objects]
        item = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "masks": torch.from_numpy(np.stack(masks)),
            "boxes": torch.tensor([item.bbox for item in frame.objects], dtype=torch.float32),
            "object_ids": torch.tensor([item.object_id for item in frame.objects], dtype=torch.int64),
            "prompts": [item.prompt for item in frame.objects],
            "scores": torch.tensor([item.score for item in frame.objects], dtype=torch.float32),
            "track_scores": torch.tensor([item.track_score for item in frame.objects], dtype=torch.float32),
            "clip_id": clip.clip_id,
            "frame_index": frame.frame_index,
            "time_s": frame.time_s,
        }
        return item if self._transform is None else self._transform(item)

    def close(self) -> None:
        """Stops decoding, and removes cached copies of remote videos."""
        self._frames.close()


class ByClip(Sampler[int]):
    """A sampler for `RunDataset`: clips in random order, each clip's frames in sequence.

    Args:
        seed: fixes the order of clips. `set_epoch` changes the order, in the same way in every process.
    """

    def __init__(self, dataset: RunDataset, seed: int = 0) -> None:
        self._starts, self._seed, self._epoch = dataset.starts, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[int]:
        for clip in np.random.default_rng([self._seed, self._epoch]).permutation(len(self._starts) - 1):
            yield from range(int(self._starts[clip]), int(self._starts[clip + 1]))


def collate_frames(items: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Collates items of different sizes and object counts into a list per key."""
    return {name: [item[name] for item in items] for name in items[0]}
