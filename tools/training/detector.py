"""Trains the detector, which turns phrases into boxes, masks, scores and presence.

The last decoder layer is matched one to one, as in DETR (Carion et al. 2020). Three measures make it learn within CPU
hours: the encoder's tokens are supervised directly (is this part of an object asked for, and of which box), a second
set of queries starts from noised true boxes (after DN-DETR, Li et al. 2022), and masks, which cost most, are decoded
for only a few (image, phrase) pairs of a batch. None of this is part of the checkpoint.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou
from transformers.masking_utils import create_bidirectional_mask

from .samples import Image, draw_images
from .schedule import SIZE_PENALTY, Run

PHRASES = 4  # phrases per image


def draw_batch(index: int, *, size: int, images: int, asked: int, first: int) -> list[Image]:
    """Draws the batch of a step: two moments of each of `images / 2` scenes. Depends only on its arguments."""
    return [image for i in range(images // 2) for image in draw_images(first + index * (images // 2) + i, size, asked)]


class Helpers(nn.Module):
    """Modules that training needs in addition to the model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 5)


def train_detector(run: Run) -> None:
    """Trains all of `Sam3Model` except its backbone, which is trained before, and its geometry encoder."""
    model, tokenizer, options = run.model, run.tokenizer, run.options
    detector = model.detector_model
    model.requires_grad_(False)
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(not name.startswith(("geometry_encoder", "vision_encoder.backbone")))
    size = detector.config.vision_config.image_size
    draw = partial(draw_batch, size=size, images=options.images, asked=PHRASES, first=options.seed)
    for images in run.steps([*detector.parameters(), *run.helpers.parameters()], draw):
        rng = np.random.default_rng([options.seed, run.count])
        run.step(losses_of(detector, run.helpers, tokenizer, images, rng))


def losses_of(
    detector: Any, helpers: Helpers, tokenizer: Any, images: list[Image], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Runs `Sam3Model`'s parts once for every (image, phrase) pair, and computes all losses."""
    texts = [phrase for image in images for phrase in image.phrases]
    device = helpers.dense.weight.device
    boxes = [found.to(device) for image in images for found in image.boxes]
    masks = [found.to(device) for image in images for found in image.masks]
    tokens = tokenizer(texts, padding="longest", return_tensors="pt").to(device)
    mask = tokens["attention_mask"].bool()
    asked = len(images[0].phrases)
    encoder, neck = detector.vision_encoder, detector.vision_encoder.neck
    grid = encoder.config.backbone_config.image_size // encoder.config.backbone_config.patch_size
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = encoder.backbone(torch.stack([image.pixels for image in images]).to(device)).last_hidden_state
        hidden = hidden.view(len(images), grid, grid, -1).permute(0, 3, 1, 2)
        top = neck.fpn_layers[2](hidden)
        position = neck.position_encoding(top.shape, top.device, torch.float32)
        text = detector.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], return_dict=True
        ).pooler_output
        encoded = detector.detr_encoder(
            vision_features=[top.repeat_interleave(asked, 0)],
            text_features=text,
            vision_pos_embeds=[position.expand(len(images), -1, -1, -1).repeat_interleave(asked, 0)],
            text_mask=mask,
        )
        states = encoded.last_hidden_state
    dense = helpers.dense(states.float())
    losses = _dense_losses(dense, boxes, masks, grid)
    # Nothing normalises these. Without a penalty they grow until they drown the position encodings added to them.
    losses["size"] = SIZE_PENALTY * (top.float().square().mean() + states.float().square().mean())

    noised = _noised(boxes, detector.detr_decoder.config.num_queries, rng).to(device)
    outputs = decode_queries(detector, encoded, mask, grid, noised)
    matches = [match(outputs["logits"][-1, i], outputs["corners"][-1, i], found) for i, found in enumerate(boxes * 2)]
    losses |= query_losses(outputs, matches, boxes * 2)

    # Masks of a few pairs, one per image, preferably with something to find.
    order = rng.permutation(asked)
    pairs = [
        int(i) * asked + int(max(order, key=lambda p: len(boxes[int(i) * asked + int(p)]) > 0))
        for i in rng.permutation(len(images))[: max(len(images) * 5 // 8, 1)]
    ]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        chosen = hidden[torch.tensor([pair // asked for pair in pairs], device=device)]
        fine = [
            neck.fpn_layers[0](chosen),
            neck.fpn_layers[1](chosen),
            torch.empty(len(pairs), 1, grid, grid, device=device),
        ]
        index = torch.tensor(pairs, device=device)
        decoded = detector.mask_decoder(
            decoder_queries=outputs["hidden"][-1, index],
            backbone_features=fine,
            encoder_hidden_states=states[index],
            prompt_features=text[index],
            prompt_mask=mask[index],
        )
    return losses | _mask_losses(
        decoded.pred_masks.float(),
        decoded.semantic_seg.float()[:, 0],
        [masks[p] for p in pairs],
        [matches[p] for p in pairs],
    )


def decode_queries(
    detector: Any, encoded: Any, mask: Tensor, grid: int, noised: Tensor | None = None
) -> dict[str, Tensor]:
    """Runs `Sam3DetrDecoder.forward` on the batch twice: from the model's anchors, and from `noised` boxes."""
    decoder = detector.detr_decoder
    samples = len(mask)
    times = 1 if noised is None else 2
    mask = mask.repeat(times, 1)
    vision, text = encoded.last_hidden_state.repeat(times, 1, 1), encoded.text_features.repeat(times, 1, 1)
    places = encoded.pos_embeds_flattened.repeat(times, 1, 1)
    reference = decoder.reference_points.weight.sigmoid()[None].expand(samples, -1, -1)
    if noised is not None:
        reference = torch.cat([reference, noised])
    first = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
    state = first[None].expand(times * samples, -1, -1)
    text_mask = create_bidirectional_mask(
        config=decoder.config, inputs_embeds=state, attention_mask=mask, encoder_hidden_states=text
    )
    hidden, corners, presence = [], [], []
    for layer in decoder.layers:
        with torch.autocast(vision.device.type, dtype=torch.bfloat16):
            where = decoder.ref_point_head(decoder.position_encoding.encode_boxes(reference))
            bias = F.pad(decoder._get_rpb_matrix(reference, (torch.tensor(grid), torch.tensor(grid))), (0, 0, 1, 0))
            state = layer(
                state,
                query_pos=where,
                text_features=text,
                vision_features=vision,
                vision_pos_encoding=places,
                text_cross_attn_mask=text_mask,
                vision_cross_attn_mask=bias.to(vision.dtype),
            )
        queries = decoder.output_layer_norm(state[:, 1:].float())
        boxes = (torch.logit(reference.clamp(1e-3, 1 - 1e-3)) + decoder.box_head(queries)).sigmoid()
        reference = boxes.detach()
        hidden.append(queries)
        corners.append(_corners(boxes))
        presence.append(decoder.presence_head(decoder.presence_layer_norm(state[:, 0].float()))[:, 0])
    logits = detector.dot_product_scoring(
        decoder_hidden_states=torch.stack(hidden), text_features=text.float(), text_mask=mask
    ).squeeze(-1)
    return {
        "hidden": torch.stack(hidden),  # (layers, 2 * samples, queries, width)
        "corners": torch.stack(corners),
        "logits": logits,  # (layers, 2 * samples, queries)
        "presence": torch.stack(presence).clamp(-10, 10),
    }


def _dense_losses(dense: Tensor, boxes: list[Tensor], masks: list[Tensor], grid: int) -> dict[str, Tensor]:
    """Losses of each encoder token: how much of it is asked for, and the box of the object it lies on."""
    cell = masks[0].shape[-1] // grid
    covers = [F.avg_pool2d(m[None], cell)[0].flatten(1) if len(m) else m.new_zeros(0, grid * grid) for m in masks]
    share = torch.stack([c.sum(0).clamp(max=1) if len(c) else c.new_zeros(grid * grid) for c in covers])
    losses = {"dense": 2 * F.binary_cross_entropy_with_logits(dense[..., 0], share)}
    picked, truth = [], []
    for i, cover in enumerate(covers):
        if len(cover):
            best, owner = cover.max(0)
            at = torch.nonzero(best > 0.4)[:, 0]
            picked.append(dense[i, at, 1:])
            truth.append(boxes[i][owner[at]])
    if picked:
        losses["dense_box"] = 2 * (torch.cat(picked).sigmoid() - torch.cat(truth)).abs().sum(-1).mean()
    return losses


def _noised(boxes: list[Tensor], queries: int, rng: np.random.Generator) -> Tensor:
    """Starting boxes (samples, queries, 4) cxcywh: several noised copies of each true box, then random boxes."""
    start = rng.uniform(0.05, 0.95, (len(boxes), queries, 4))
    start[..., 2:] = rng.uniform(0.08, 0.5, (len(boxes), queries, 2))
    for i, found in enumerate(boxes):
        if not len(found):
            continue
        xyxy = found.cpu().numpy()
        centre, size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
        count = min(2 * len(xyxy), queries // 2)
        for q in range(count):
            k = q % len(xyxy)
            far = 0.25 if q < len(xyxy) else 0.7
            start[i, q, :2] = centre[k] + size[k] * rng.uniform(-far, far, 2)
            start[i, q, 2:] = size[k] * np.exp(rng.uniform(-far, far, 2))
        start[i] = start[i, rng.permutation(queries)]
    return torch.from_numpy(start.clip(0.02, 0.98).astype(np.float32))


def query_losses(
    outputs: dict[str, Tensor], matches: list[tuple[Tensor, Tensor]], boxes: list[Tensor]
) -> dict[str, Tensor]:
    layers, samples, queries = outputs["logits"].shape
    device = outputs["logits"].device
    sample = torch.tensor([i for i, (q, _) in enumerate(matches) for _ in q], dtype=torch.long, device=device)
    query = torch.cat([q for q, _ in matches])
    truth = torch.cat([boxes[i][t] for i, (_, t) in enumerate(matches)])
    target = torch.zeros(samples, queries, device=device)
    target[sample, query] = 1.0
    present = torch.tensor([float(len(b) > 0) for b in boxes], device=device)
    count = max(len(truth), 1)
    # If nothing is there, presence must say so, and the queries too, so that no box depends on presence alone.
    classes = F.binary_cross_entropy_with_logits(
        outputs["logits"], target.expand(layers, -1, -1), reduction="none"
    ).sum() / (layers * count)
    losses = {
        "class": 2 * classes,
        "presence": 2 * F.binary_cross_entropy_with_logits(outputs["presence"], present.expand(layers, -1)),
    }
    if len(truth):
        found = outputs["corners"][:, sample, query]
        losses["l1"] = 5 * (found - truth).abs().sum(-1).mean()
        losses["giou"] = 2 * (1 - _paired_giou(found, truth.expand_as(found))).mean()
    return losses


def _mask_losses(
    logits: Tensor, semantic: Tensor, masks: list[Tensor], matches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    empty = semantic.new_zeros(semantic.shape[-2:])
    coverage = torch.stack([m.amax(0) if len(m) else empty for m in masks])
    losses = {"semantic": 2 * F.binary_cross_entropy_with_logits(semantic, coverage)}
    found = [logits[i, q] for i, (q, _) in enumerate(matches) if len(q)]
    if found:
        guess = torch.cat(found).flatten(1)
        truth = torch.cat([masks[i][t] for i, (q, t) in enumerate(matches) if len(q)]).flatten(1)
        losses["mask"] = 5 * F.binary_cross_entropy_with_logits(guess, truth) + 0.5 * _within(guess, truth)
        losses["dice"] = 2 * _dice(guess, truth).mean()
    return losses


def _within(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy inside the objects. Each has the same weight, whatever its size."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    inside = (truth > 0).float()
    return ((loss * inside).sum(1) / inside.sum(1).clamp(min=1)).mean()


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    probability = logits.sigmoid()
    return 1 - (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)


def _corners(boxes: Tensor) -> Tensor:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def _paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes (..., 4) xyxy, pair by pair."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    union = areas - inner
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return inner / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Matches queries with true objects at the least cost."""
    if not len(truth):
        return (torch.zeros(0, dtype=torch.long, device=truth.device),) * 2
    cost = -2 * logits.sigmoid()[:, None] + 5 * torch.cdist(boxes, truth, p=1) - 2 * generalized_box_iou(boxes, truth)
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy(), nan=1e3))
    return torch.from_numpy(rows).to(truth.device), torch.from_numpy(columns).to(truth.device)
