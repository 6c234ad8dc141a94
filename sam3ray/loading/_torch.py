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
    """The annotated frames of a run, in the manifest's order; frames without objects are not among them.

    An item is a dict:

        image         uint8 tensor (3, height, width), RGB, as displayed
        masks         bool tensor (n, height, width)
        boxes         float32 tensor (n, 4): xmin, ymin, xmax, ymax in pixels, max exclusive
        object_ids    int64 tensor (n,)
        prompts       list of n phrases
        scores, track_scores    float32 tensors (n,)
        clip_id, frame_index, time_s    where the frame is from

    Opening it reads the frame times of every clip, but no masks. Reading an item reads its clip's rows (those of the
    last few clips are kept) and decodes its frame. The next frame of the same clip is decoded in sequence; any other
    needs a seek, which is exact. Use `ByClip` to shuffle without a seek for every item. It works in the workers of a
    `DataLoader`, each of which opens its own videos.

    Args:
        run: the output folder, on any fsspec storage, or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they win over those of the configuration.
        clips: ids; None is all that are done.
        prompts: only objects of these phrases, and frames that have one.
        every: every n-th of the frames of a clip.
        revision: None is what the model found; "latest" or a number applies the corrections up to there.
        transform: called with each item; its result is returned instead.
        video: limits, and where remote videos are kept while they are read.

    Raises:
        UserError: there is no run, no such finished clip or no such revision.
        ClipError: of an item: its video cannot be read, or is not the one that was annotated.
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
        """Ends decoding, and removes remote videos that were kept for it."""
        self._frames.close()


class ByClip(Sampler[int]):
    """Items of a `RunDataset` clip by clip: clips in a random order, the frames of a clip in theirs.

    Args:
        seed: of the first epoch; `set_epoch` gives every epoch another order, and every process the same.
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
    """Collates items of different sizes and numbers of objects: a list for each key."""
    return {name: [item[name] for item in items] for name in items[0]}
