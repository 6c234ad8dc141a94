"""The detector half of the model: phrases and frames in, scored masks out.

Text embeddings are computed once per phrase and engine. The phrases of a frame (and, with look-ahead, several
frames) share a call of the detector's transformer, `batch` (frame, phrase) pairs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sam3ray.engine.postprocess import intersections, ious, nms
from sam3ray.engine.transfer import indices, to_host
from sam3ray.failures import UserError

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint

MAX_TOKENS = 32  # of the text encoder, start and end included


@dataclass(eq=False)
class Proposals:
    """Everything the detector says of one frame, before any threshold.

    Attributes:
        masks: (prompts, queries, h, w) logits on the device.
        probs: (prompts, queries) float32 scores, on the host. On CUDA they are still on their way until `arrived`.
        arrived: None where `probs` is complete.
    """

    masks: torch.Tensor
    probs: torch.Tensor
    arrived: torch.cuda.Event | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """What one frame's proposals leave after thresholds and NMS, in order of prompt and query.

    Attributes:
        masks: (n, h, w) logits on the device.
        scores: (n,) float32.
        prompts: (n,) index of the phrase.
    """

    masks: torch.Tensor
    scores: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: np.ndarray) -> Detections:
        masks = self.masks[indices(index.tolist(), self.masks.device)]
        return Detections(masks, self.scores[index], self.prompts[index])


class DetectorLike(Protocol):
    """What the engine needs of a detector; tests and benchmarks bring their own."""

    def propose(self, backbone: torch.Tensor, prompts: Sequence[str], first_position: int) -> list[Proposals]:
        """Detect on consecutive frames.

        Args:
            backbone: (frames, tokens, channels), the vision backbone's last hidden state.
            prompts: phrases.
            first_position: of the first frame, in the sequence that is being segmented.
        """
        ...


class Detector:
    """The detector of a checkpoint.

    Args:
        checkpoint: the loaded model.
        batch: (frame, phrase) pairs per call.
    """

    def __init__(self, checkpoint: Checkpoint, batch: int = 8) -> None:
        self._model = checkpoint.model.detector_model
        self._tokenizer = checkpoint.processor.tokenizer
        self._device = checkpoint.device
        self._batch = batch
        self._phrases: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._prompts: tuple[str, ...] = ()
        self._text = self._mask = torch.empty(0)

    def check(self, prompts: Sequence[str]) -> None:
        """Raise UserError if a phrase is longer than the text encoder takes."""
        problems = []
        for phrase in prompts:
            tokens = len(self._tokenizer(phrase)["input_ids"])
            if tokens > MAX_TOKENS:
                problems.append(
                    f"the prompt {phrase!r} has {tokens} tokens; the model takes at most {MAX_TOKENS}, "
                    f"start and end included: use a shorter phrase"
                )
        if problems:
            raise UserError(problems)

    def propose(self, backbone: torch.Tensor, prompts: Sequence[str], first_position: int = 0) -> list[Proposals]:
        """See `DetectorLike`."""
        self._use(tuple(prompts))
        levels, positions = self._neck(backbone)
        frames, count = len(backbone), len(prompts)
        pairs = [(frame, prompt) for frame in range(frames) for prompt in range(count)]
        masks, probs = [], []
        for start in range(0, len(pairs), self._batch):
            chunk = pairs[start : start + self._batch]
            frame_of, prompt_of = [pair[0] for pair in chunk], [pair[1] for pair in chunk]
            chunk_masks, chunk_probs = self._detect(
                [_rows(level, frame_of) for level in levels],
                [position.expand(len(chunk), -1, -1, -1) for position in positions],
                _rows(self._text, prompt_of),
                _rows(self._mask, prompt_of),
            )
            masks.append(chunk_masks)
            probs.append(chunk_probs)
        all_masks = masks[0] if len(masks) == 1 else torch.cat(masks)
        all_probs = probs[0] if len(probs) == 1 else torch.cat(probs)
        queries = all_probs.shape[1]
        host, arrived = to_host(all_probs.float().view(frames, count, queries))
        per_frame = all_masks.view(frames, count, queries, *all_masks.shape[-2:])
        return [Proposals(per_frame[frame], host[frame], arrived) for frame in range(frames)]

    def _neck(self, backbone: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The detector's feature pyramid (frames, C, H, W) and its position encodings (1, C, H, W).

        The last level of the pyramid is left out: nothing reads it.
        """
        neck = self._model.vision_encoder.neck
        side = round(backbone.shape[1] ** 0.5)
        spatial = backbone.transpose(1, 2).unflatten(2, (side, side))
        levels = [layer(spatial) for layer in neck.fpn_layers[:-1]]
        positions = [neck.position_encoding(level[:1].shape, level.device, level.dtype) for level in levels]
        return levels, positions

    def _detect(
        self, levels: list[torch.Tensor], positions: list[torch.Tensor], text: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self._model(
            # The model drops the last level, so one more is named that nobody reads.
            vision_embeds=SimpleNamespace(
                fpn_hidden_states=(*levels, levels[-1]),
                fpn_position_encoding=(*positions, positions[-1]),
                hidden_states=None,
                attentions=None,
            ),
            text_embeds=SimpleNamespace(pooler_output=text),
            attention_mask=mask,
        )
        return output.pred_masks, output.pred_logits.sigmoid() * output.presence_logits.sigmoid()

    def _use(self, prompts: tuple[str, ...]) -> None:
        """Text features (prompts, tokens, channels) and attention masks (prompts, tokens) of these phrases."""
        if prompts == self._prompts:
            return
        self.check(prompts)
        for phrase in prompts:
            if phrase not in self._phrases:
                self._phrases[phrase] = self._embed(phrase)
        self._text = torch.cat([self._phrases[phrase][0] for phrase in prompts])
        self._mask = torch.cat([self._phrases[phrase][1] for phrase in prompts])
        self._prompts = prompts

    def _embed(self, phrase: str) -> tuple[torch.Tensor, torch.Tensor]:
        encoded: Any = self._tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=MAX_TOKENS)
        ids, mask = encoded["input_ids"].to(self._device), encoded["attention_mask"].to(self._device)
        features = self._model.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
        return features.pooler_output, mask


def select(proposals: Proposals, score_threshold: float, nms_threshold: float) -> Detections:
    """Proposals above the threshold that survive mask NMS among those of their phrase.

    `nms_threshold` 0 switches NMS off.
    """
    if proposals.arrived is not None:
        proposals.arrived.synchronize()
    prompts, queries = np.nonzero(proposals.probs.numpy() > score_threshold)
    scores = proposals.probs.numpy()[prompts, queries]
    device = proposals.masks.device
    index = indices([prompts.tolist(), queries.tolist()], device)
    detections = Detections(proposals.masks[index[0], index[1]], scores, prompts)
    if nms_threshold <= 0 or len(scores) < 2:
        return detections
    binary = detections.masks > 0
    shared = intersections(binary, binary).cpu().numpy()
    areas = shared.diagonal()
    overlap = ious(shared, areas, areas)
    keep = np.zeros(len(scores), dtype=bool)
    for prompt in np.unique(prompts):
        group = np.flatnonzero(prompts == prompt)
        keep[group] = nms(overlap[np.ix_(group, group)], scores[group], nms_threshold)
    return detections if keep.all() else detections.take(np.flatnonzero(keep))


def _rows(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """tensor[rows] without a copy where all rows are the same one, or all rows in order."""
    if len(set(rows)) == 1:
        return tensor[rows[0] : rows[0] + 1].expand(len(rows), *[-1] * (tensor.ndim - 1))
    if list(rows) == list(range(len(tensor))):
        return tensor
    return tensor[indices(rows, tensor.device)]
