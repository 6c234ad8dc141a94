"""Trains the geometry encoder, which turns boxes around examples into tokens that describe their concept.

The rest of the model stays unchanged, so that phrases, clicks, boxes and masks give the same results as before. Half of
the tokens are used on the frame with the boxes, half on another moment of the scene, where the boxes' positions mean
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam3ray.shapes import Artist, make_scene, phrases

from .detector import PHRASES, decode_queries, match, query_losses
from .samples import LEAST_VISIBLE, box_of, draw_spec, pixels
from .schedule import Run

VISUAL = "visual"  # what stands for the phrase where there is none, in Meta's code and here
_BOXES = 3  # at most, of one example


@dataclass
class Example:
    """Boxes on the image `shown`, and what they ask for on the image `asked` (both are places in the batch).

    `boxes` (n, 4) cxcywh and `truth` (m, 4) xyxy are relative to the frame; `labels` (n,) mark instances.
    """

    shown: int
    asked: int
    phrase: str
    boxes: Tensor
    labels: Tensor
    truth: Tensor


@dataclass
class Examples:
    pixels: Tensor  # (images, 3, S, S)
    each: list[Example]


def draw_examples(index: int, *, size: int, images: int, asked: int, first: int) -> Examples:
    """Draws the batch of a step: two moments of each of `images / 2` scenes. Depends only on its arguments."""
    shown: list[Tensor] = []
    each: list[Example] = []
    for i in range(images // 2):
        rng = np.random.default_rng([first + index * (images // 2) + i, 6])
        artist = Artist(make_scene(draw_spec(rng, first + index * (images // 2) + i, size, 96)))
        frames = [artist.frame(int(rng.integers(48)) + half) for half in (0, 48)]
        found = [
            [(t.label, box_of(mask)) for t in artist.scene.objects if t.label and _seen(mask := f.ids == t.object_id)]
            for f in frames
        ]
        for _ in range(2 * asked):
            example = _example(found, len(shown), rng)
            if example is not None:
                each.append(example)
        shown += [pixels(frame.image) for frame in frames]
    return Examples(torch.stack(shown), each)


def _seen(mask: np.ndarray) -> bool:
    return bool(mask.sum() >= LEAST_VISIBLE)


def _example(
    found: list[list[tuple[tuple[str, str], list[float]]]], first: int, rng: np.random.Generator
) -> Example | None:
    here = int(rng.integers(2))
    there = here if rng.random() < 0.5 else 1 - here
    if not found[here]:
        return None
    label = found[here][int(rng.integers(len(found[here])))][0]
    alike = [box for kind, box in found[here] if kind == label]
    others = [(kind, box) for kind, box in found[here] if kind != label]
    positive = [alike[i] for i in rng.permutation(len(alike))[: 1 + int(rng.integers(_BOXES))]]
    negative: list[tuple[tuple[str, str], list[float]]] = []
    if others and rng.random() < 0.3:
        negative = [others[int(rng.integers(len(others)))]]
    phrase, wanted = VISUAL, {label}
    roll = rng.random()
    if roll < 0.15:
        phrase = str(rng.choice(phrases(*label)))
    elif roll < 0.35:  # all of a shape except those of one colour, which only the negative box tells
        same = [(kind, box) for kind, box in others if kind[1] == label[1]]
        if same:
            phrase, positive, negative = label[1], [], [same[int(rng.integers(len(same)))]]
            wanted = {kind for both in found for kind, _ in both if kind[1] == label[1]} - {negative[0][0]}
    boxes = np.array([*positive, *(box for _, box in negative)])
    span = np.concatenate([boxes[:, 2:] - boxes[:, :2]] * 2, 1)
    boxes = np.clip(boxes + 0.06 * span * rng.uniform(-1, 1, boxes.shape), 0, 1)
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    truth = [box for kind, box in found[there] if kind in wanted]
    return Example(
        first + here,
        first + there,
        phrase,
        torch.from_numpy(centred.astype(np.float32)),
        torch.tensor([1] * len(positive) + [0] * len(negative)),
        torch.tensor(truth, dtype=torch.float32).reshape(-1, 4),
    )


def train_exemplars(run: Run) -> None:
    model, tokenizer, options = run.model, run.tokenizer, run.options
    detector = model.detector_model
    model.requires_grad_(False)
    detector.geometry_encoder.requires_grad_(True)
    size = detector.config.vision_config.image_size
    draw = partial(draw_examples, size=size, images=options.images, asked=PHRASES // 2, first=options.seed)
    for batch in run.steps(list(detector.geometry_encoder.parameters()), draw):
        if batch.each:
            run.step(losses_of(detector, tokenizer, batch))


def losses_of(detector: Any, tokenizer: Any, batch: Examples) -> dict[str, Tensor]:
    """Runs `Sam3Model`'s parts once for every example, and computes the losses of its queries."""
    encoder, neck, each = detector.vision_encoder, detector.vision_encoder.neck, batch.each
    device = detector.detr_decoder.query_embed.weight.device
    grid = encoder.config.backbone_config.image_size // encoder.config.backbone_config.patch_size
    texts = tokenizer([e.phrase for e in each], padding="longest", return_tensors="pt").to(device)
    with torch.no_grad():
        hidden = encoder.backbone(batch.pixels.to(device)).last_hidden_state
        top = neck.fpn_layers[2](hidden.view(len(hidden), grid, grid, -1).permute(0, 3, 1, 2))
        place = neck.position_encoding(top[:1].shape, top.device, torch.float32).expand(len(each), -1, -1, -1)
        text = detector.get_text_features(**texts, return_dict=True).pooler_output
    pad = nn.utils.rnn.pad_sequence
    boxes = pad([e.boxes for e in each], batch_first=True).to(device)
    labels = pad([e.labels for e in each], batch_first=True).to(device)
    given = pad([torch.ones(len(e.boxes), dtype=torch.bool) for e in each], batch_first=True).to(device)
    geometry = detector.geometry_encoder(boxes, given, labels, (top[[e.shown for e in each]],), (place,))
    prompt = torch.cat([text, geometry.last_hidden_state], 1)
    mask = torch.cat([texts["attention_mask"].bool(), geometry.attention_mask.bool()], 1)
    encoded = detector.detr_encoder(
        vision_features=[top[[e.asked for e in each]]],
        text_features=prompt,
        vision_pos_embeds=[place],
        text_mask=mask,
    )
    outputs = decode_queries(detector, encoded, mask, grid)
    truth = [e.truth.to(device) for e in each]
    matches = [match(outputs["logits"][-1, i], outputs["corners"][-1, i], found) for i, found in enumerate(truth)]
    return query_losses(outputs, matches, truth)
