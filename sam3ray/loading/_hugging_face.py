"""A run as a dataset of Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sam3ray.config import RunSource, VideoConfig, run_place
from sam3ray.failures import UserError
from sam3ray.loading._frames import Choice, RunFrames
from sam3ray.masks import decode_rle
from sam3ray.store import RunStore
from sam3ray.values.phrases import as_names

if TYPE_CHECKING:
    import datasets


def hugging_face_dataset(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    clips: str | Sequence[str] | None = None,
    prompts: str | Sequence[str] | None = None,
    every: int = 1,
    revision: int | str | None = None,
    video: VideoConfig | None = None,
) -> datasets.IterableDataset:
    """The annotated frames of a run as a streaming dataset, decoded on demand.

    Columns: `image`, `clip_id`, `frame_index`, `time_s`, and `objects`, a list of `object_id`, `prompt`, `score`,
    `track_score`, `bbox` (xmin, ymin, xmax, ymax, max exclusive), `area`, `segmentation` (COCO RLE, for
    `sam3ray.decode_mask`) and `mask`, an image that is 255 on the object and 0 elsewhere. Each clip is a shard:
    `shuffle`, the workers of a `DataLoader` and `split_dataset_by_node` work on whole clips.

    Args: see `RunDataset`.

    Raises:
        UserError: see `RunDataset`; also if `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("this needs Hugging Face's datasets: pip install 'sam3ray[datasets]'") from None

    output, options = run_place(run, storage_options)
    names, phrases = as_names(clips, "clips"), as_names(prompts, "prompts")
    choice = Choice(None if names is None else tuple(names), None if phrases is None else tuple(phrases), every)
    frames = RunFrames(RunStore(output, options), options, choice, revision, video)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "clip_id": datasets.Value("string"),
            "frame_index": datasets.Value("int32"),
            "time_s": datasets.Value("float64"),
            "objects": datasets.List(
                {
                    "object_id": datasets.Value("int32"),
                    "prompt": datasets.Value("string"),
                    "score": datasets.Value("float32"),
                    "track_score": datasets.Value("float32"),
                    "bbox": datasets.List(datasets.Value("float32"), length=4),
                    "area": datasets.Value("int32"),
                    "segmentation": {
                        "size": datasets.List(datasets.Value("int32"), length=2),
                        "counts": datasets.Value("string"),
                    },
                    "mask": datasets.Image(),
                }
            ),
        }
    )
    # `datasets` shares the lists among its arguments: one shard for each clip.
    given = {"clip_ids": [clip.clip_id for clip in frames.clips], "frames": frames}
    return datasets.IterableDataset.from_generator(_examples, features=features, gen_kwargs=given)


def _examples(clip_ids: Sequence[str], frames: RunFrames) -> Iterator[dict[str, Any]]:
    from PIL import Image

    clips = {clip.clip_id: clip for clip in frames.clips}
    for clip_id in clip_ids:
        for index, frame in frames.frames(clips[clip_id]).items():
            objects = []
            for item in frame.objects:
                mask = decode_rle(item.rle, frame.height, frame.width).view(np.uint8) * 255
                objects.append(
                    {
                        "object_id": item.object_id,
                        "prompt": item.prompt,
                        "score": item.score,
                        "track_score": item.track_score,
                        "bbox": list(item.bbox),
                        "area": item.area,
                        "segmentation": {"size": [frame.height, frame.width], "counts": item.rle},
                        "mask": Image.fromarray(mask),
                    }
                )
            image = Image.fromarray(frames.picture(clips[clip_id], frame).image)
            yield {
                "image": image,
                "clip_id": clip_id,
                "frame_index": index,
                "time_s": frame.time_s,
                "objects": objects,
            }
    frames.close()
