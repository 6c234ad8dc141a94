"""Makes one measurement in its own process: of the tutorial's way, this engine, or the bare modules.

    python -m benchmarks.ways '{"way": "ours", "objects": 16, "clip": "/tmp/clip.mp4", ...}'

prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks.models import build
from benchmarks.scene import FindsDiscs, Scene, follow_discs, patch_transformers
from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine import capture
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import Detector
from sam3ray.engine.engine import Engine
from sam3ray.video import VideoReader

PROMPT = "disc"


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tutorial(checkpoint: Checkpoint, clip: str, scene: Scene) -> Iterator[int]:
    """Follows transformers' documentation, with masks encoded by pycocotools. Yields the number of objects."""
    from pycocotools import mask as coco

    model, processor = checkpoint.model, checkpoint.processor
    patch_transformers(model, scene)
    with av.open(clip) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    session = processor.init_video_session(video=frames, inference_device=checkpoint.device, dtype=checkpoint.dtype)
    session = processor.add_text_prompt(session, PROMPT)
    for output in model.propagate_in_video_iterator(session):
        final = processor.postprocess_outputs(session, output)
        masks = final["masks"].cpu().numpy()
        rows = [
            (int(i), float(score), box, coco.encode(np.asfortranarray(mask, dtype=np.uint8)))
            for i, score, box, mask in zip(
                final["object_ids"].tolist(), final["scores"].tolist(), final["boxes"].tolist(), masks, strict=True
            )
        ]
        yield len(rows)


def ours(checkpoint: Checkpoint, clip: str, scene: Scene, tracking: dict[str, Any]) -> Iterator[int]:
    follow_discs(scene)
    settings = TrackingConfig(max_num_objects=1000, **tracking)
    engine = Engine(checkpoint, settings, FindsDiscs(Detector(checkpoint), scene))
    frame: FrameAnnotations
    with VideoReader(clip) as reader:
        for frame in engine.annotate(reader, reader.info.height, reader.info.width, [PROMPT]):
            yield len(frame.objects)


def floor(checkpoint: Checkpoint, objects: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of the bare module calls for one frame with full memories, each call in one batch."""
    model, device, dtype = checkpoint.model, checkpoint.device, checkpoint.dtype
    detector, tracker = model.detector_model, model.tracker_model
    image = detector.config.image_size
    pixels = torch.randn(1, 3, image, image, device=device, dtype=dtype)
    tokens = checkpoint.processor.tokenizer(PROMPT, return_tensors="pt", padding="max_length", max_length=32)
    tokens = {name: value.to(device) for name, value in tokens.items()}
    text = detector.get_text_features(**tokens)
    vision = detector.get_vision_features(pixels)
    features, positions = model.get_vision_features_for_tracker(vision)
    grid = tracker.prompt_encoder.image_embedding_size
    cells, channels, memory = grid[0] * grid[1], tracker.hidden_dim, tracker.mem_dim
    frames, pointers = tracker.config.num_maskmem, 16 * (channels // memory)
    length = frames * cells + pointers

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    top = features[-1].expand(-1, objects, -1).contiguous()
    top_positions = positions[-1].expand(-1, objects, -1).contiguous()
    memories, memory_positions = rand(length, objects, memory), rand(length, objects, memory)
    embeddings = rand(objects, channels, *grid)
    sparse, dense = tracker.prompt_encoder(
        input_points=torch.zeros(objects, 1, 1, 2, device=device, dtype=dtype),
        input_labels=-torch.ones(objects, 1, 1, dtype=torch.int32, device=device),
        input_boxes=None,
        input_masks=None,
    )
    fine = [
        level.permute(1, 2, 0).reshape(1, -1, scale * grid[0], scale * grid[1]).contiguous()
        for level, scale in zip(features[:-1], (4, 2), strict=True)
    ]
    wide = tracker.get_image_wide_positional_embeddings()
    masks = rand(objects, 1, 16 * grid[0], 16 * grid[1])
    calls: dict[str, Callable[[], Any]] = {
        "backbone": lambda: detector.vision_encoder.backbone(pixels),
        "necks": lambda: (
            detector.vision_encoder.neck(rand(1, vision.last_hidden_state.shape[-1], *grid)),
            model.get_vision_features_for_tracker(vision),
        ),
        "detector": lambda: detector(vision_embeds=vision, text_embeds=text, attention_mask=tokens["attention_mask"]),
        "memory attention": lambda: tracker.memory_attention(
            current_vision_features=top,
            current_vision_position_embeddings=top_positions,
            memory=memories,
            memory_posision_embeddings=memory_positions,
            num_object_pointer_tokens=pointers,
        ),
        "mask decoder": lambda: tracker.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=wide,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=fine,
        ),
        "memory encoder": lambda: tracker.memory_encoder(embeddings, masks),
    }
    seconds = {}
    for name, call in calls.items():
        times = []
        for _ in range(repeats + 1):
            _wait(device)
            start, used = time.perf_counter(), time.process_time()
            call()
            _wait(device)
            times.append((time.perf_counter() - start, time.process_time() - used))
        wall, processor = np.median(np.array(times[1:]), axis=0)
        seconds[name] = {"wall": float(wall), "cpu": float(processor)}
    return seconds


def device_peaks(device: torch.device) -> dict[str, float]:
    """Peak GPU memory in MB: taken by tensors, and held by torch for tensors and graphs."""
    if device.type != "cuda":
        return {"device_peak_mb": 0.0, "device_held_mb": 0.0}
    return {
        "device_peak_mb": torch.cuda.max_memory_allocated() / 2**20,
        "device_held_mb": torch.cuda.max_memory_reserved() / 2**20,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(job["threads"])
    checkpoint = build(job["size"], job["device"], job["dtype"], job["compile"], plain=job["way"] != "ours")
    model = checkpoint.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    objects = job["objects"]
    with torch.inference_mode():
        if job["way"] == "floor":
            return {"floor": floor(checkpoint, objects, job["repeats"]), "parameters": parameters}
        low_res = model.tracker_model.prompt_encoder.mask_input_size[0]
        scene = Scene(objects, low_res, checkpoint.device, checkpoint.dtype)
    if checkpoint.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    base = resident_mb()
    if job["way"] == "tutorial":
        results = tutorial(checkpoint, job["clip"], scene)
    else:
        capture._enabled = not job.get("eager", False)
        results = ours(checkpoint, job["clip"], scene, job["tracking"])
    counts, at, resident = [], [time.perf_counter()], []
    processor_start = time.process_time()
    for count in results:
        counts.append(count)
        at.append(time.perf_counter())
        resident.append(resident_mb())
    _wait(checkpoint.device)
    seconds = time.perf_counter() - at[0]
    processor_seconds = time.process_time() - processor_start
    steps = np.diff(at)
    n = len(counts)
    window = max(1, min(50, n // 4))
    early = min(100, n // 2)  # past the first frames, while memories fill up
    # The slope over the last two thirds; before, caches and pools are filling.
    tail = np.arange(n // 3, n - 20)
    return {
        "parameters": parameters,
        "frames": n,
        "objects": float(np.mean(counts)),
        "seconds": seconds,
        "cpu_seconds": processor_seconds,
        "ms_early": 1e3 * float(np.median(steps[early : early + window])),
        "ms_late": 1e3 * float(np.median(steps[-20 - window : -20])),
        "peak_mb": peak_mb() - base,
        "growth_mb_per_1000": 1e3 * float(np.polyfit(tail, np.array(resident)[tail], 1)[0]) if len(tail) > 20 else 0.0,
        **device_peaks(checkpoint.device),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
