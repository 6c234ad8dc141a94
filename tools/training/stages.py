"""Runs the stages of the training in order, and writes the checkpoint.

Each stage keeps its state on disk (`<folder>/<stage>.pt`, replaced atomically about every minute), from which a killed
command continues when it is called again. A finished stage leaves `<stage>.done` with the whole model's weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import Sam3VideoModel

from sam3ray.failures import UserError

from .detector import Helpers, train_detector
from .exemplars import train_exemplars
from .layout import initialise, make_tokenizer, save, tiny_config
from .samples import FIRST_TRAINING_SEED, draw_images
from .schedule import Options, Run
from .tracker import Helpers as TrackerHelpers
from .tracker import adopt_neck, train_tracker
from .trunk import Heads, train_trunk

#: Other than the large model's: what the detector sees often sets the tracker right here, and what it does not confirm
#: for long is hidden. Chosen on clips of seeds from 950,000.
THRESHOLDS = {
    "recondition_every_nth_frame": 2,
    "high_conf_thresh": 0.6,
    "high_iou_thresh": 0.7,
    "assoc_iou_thresh": 0.3,
    "suppress_unmatched_only_within_hotstart": False,
    "init_trk_keep_alive": 8,
    "max_trk_keep_alive": 8,
    "fill_hole_area": 4,
}

#: Shares of the whole time: the backbone, the detector, the tracker, the geometry encoder.
SHARES = (0.20, 0.37, 0.35, 0.08)


def train(folder: Path, minutes: float, seed: int = 0, device: str = "cpu") -> Path:
    """Runs or resumes the training; returns the folder of the finished checkpoint.

    Args:
        folder: gets state, logs (`<stage>.jsonl`, one line per 50 steps) and the checkpoint.
        minutes: wall time of all stages together. The learning rates follow it, so a busy machine makes fewer steps.
        seed: seed of the weights. The same seed and number of steps give the same batches.
        device: where to train the model, "cpu" or a CUDA device. Images are drawn on the CPU.

    Raises:
        UserError: the folder has a training from another seed.
    """
    _claim(folder, seed)
    torch.manual_seed(seed)
    model = Sam3VideoModel(tiny_config())
    model.set_attn_implementation("eager")  # trains faster than SDPA on a CPU at this size
    initialise(model, seed)
    model.train().to(device)
    first = FIRST_TRAINING_SEED * (seed + 1)
    tokenizer = make_tokenizer()

    def run(name: str, share: float, rate: float, offset: int, extra: nn.Module, images: int = 8) -> Run:
        options = Options(name, minutes * share, rate, seed=first + offset, images=images)
        return Run(model, extra.to(device), tokenizer, folder, options)

    def trunk() -> None:
        heads = Heads(model.detector_model.vision_encoder.backbone.config.hidden_size)
        train_trunk(run("trunk", SHARES[0], 1e-3, 0, heads, images=48))

    def detector() -> None:
        helpers = Helpers(model.detector_model.detr_encoder.hidden_size)
        train_detector(run("detector", SHARES[1], 7e-4, 2_000_000, helpers))

    def tracker() -> None:
        adopt_neck(model, torch.stack([im.pixels for s in range(8) for im in draw_images(first + s, 112, 1)]))
        helpers = TrackerHelpers(model.tracker_model.hidden_dim, model.tracker_model.mem_dim)
        train_tracker(run("tracker", SHARES[2], 8e-4, 4_000_000, helpers))

    def exemplars() -> None:
        train_exemplars(run("exemplars", SHARES[3], 1.5e-3, 6_000_000, nn.Module()))

    for name, work in (("trunk", trunk), ("detector", detector), ("tracker", tracker), ("exemplars", exemplars)):
        _stage(model, folder, name, work)
    model.requires_grad_(True)
    for name, value in THRESHOLDS.items():
        setattr(model.config, name, value)
    return save(model.eval().cpu(), folder / "checkpoint")


def _claim(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "seed"
    if not mark.exists():
        mark.write_text(f"{seed}\n")
    held = mark.read_text().strip()
    if held != str(seed):
        raise UserError(f"{folder} has a training from seed {held}, not {seed}; choose another folder")


def _stage(model: Sam3VideoModel, folder: Path, name: str, work: Callable[[], None]) -> None:
    done = folder / f"{name}.done"
    if not done.exists():
        work()
        partial = done.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        os.replace(partial, done)
    model.load_state_dict(torch.load(done, map_location="cpu", weights_only=True))
