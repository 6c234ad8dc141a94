"""The detector half of the model: phrases and frames in, scored masks out.

Text embeddings are computed once per phrase and engine. The phrases of a frame (and, with look-ahead, several
frames) share a call of the detector's transformer, `batch` (frame, phrase) pairs at a time. The other half of its
work, the masks, is done on demand: a phrase without a score above the threshold costs none of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sam3ray.engine.capture import kept
from sam3ray.engine.concepts import Asked, Sought
from sam3ray.engine.detr import DetectionMasks, DetectionTransformer
from sam3ray.engine.geometry import geometry_tokens
from sam3ray.engine.postprocess import nms
from sam3ray.engine.preflight import MAX_TOKENS, phrase_problem
from sam3ray.engine.transfer import indices, to_device, to_host
from sam3ray.engine.vision import as_image
from sam3ray.failures import UserError

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint

_MOST_PHRASES = 512  # whose text features are kept, 16 KB each, regardless of the job's number of phrases
_NONE = torch.empty(0)
_COARSE = 2  # the level of the feature pyramid that is searched; those before are finer, and the one behind is unused


@dataclass(eq=False)
class Proposals:
    """The detector's complete output for one frame, before any threshold.

    Attributes:
        masks: (prompts, queries, h, w) logits on the device, or what makes those of some prompts when it is called.
        probs: (prompts, queries) float32 scores, on the host. On CUDA they are still on their way until `arrived`.
        arrived: None where `probs` is complete.
    """

    masks: torch.Tensor | Callable[[Sequence[int]], torch.Tensor]
    probs: torch.Tensor
    arrived: torch.cuda.Event | None = None

    def masks_of(self, prompts: Sequence[int]) -> torch.Tensor:
        """(len(prompts), queries, h, w): the masks of the prompts at these places."""
        return _rows(self.masks, prompts) if isinstance(self.masks, torch.Tensor) else self.masks(prompts)


@dataclass(frozen=True, eq=False)
class Detections:
    """One frame's proposals that remain after thresholds and NMS, in order of prompt and query.

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
    """The detector that the engine needs; tests and benchmarks provide their own."""

    def propose(self, backbone: torch.Tensor, prompts: Sequence[Asked], first_position: int) -> list[Proposals]:
        """Detect on consecutive frames.

        Args:
            backbone: (frames, tokens, channels), the vision backbone's last hidden state.
            prompts: phrases, and what is looked for by exemplars. Boxes are of the only frame.
            first_position: of the first frame, in the sequence that is being segmented.
        """
        ...


class Detector:
    """The detector of a checkpoint.

    Args:
        batch: (frame, phrase) pairs per call.
        geometry_token: give the geometry encoder's own token to every phrase, as Meta's code does where no box is
            given; transformers leaves it out.
    """

    def __init__(self, checkpoint: Checkpoint, batch: int = 8, geometry_token: bool = False) -> None:
        self._whole = checkpoint.model
        self._model: Any = checkpoint.model.detector_model
        self._tokenizer = checkpoint.processor.tokenizer
        self._device = checkpoint.device
        self._batch = batch
        self._geometry_token = geometry_token
        self._phrases: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()  # latest used last
        self._prompts: tuple[str, ...] = ()
        self._text = self._mask = torch.empty(0)
        self._search: DetectionTransformer | None = None
        model = self._model
        self._masks: DetectionMasks = kept(checkpoint.model, "detector masks", lambda: DetectionMasks(model, _COARSE))

    def check(self, prompts: Sequence[str]) -> None:
        """Raise UserError if a phrase is longer than the text encoder takes."""
        problems = []
        for phrase in prompts:
            tokens = len(self._tokenizer(phrase)["input_ids"])
            if tokens > MAX_TOKENS:
                problems.append(phrase_problem(phrase, tokens))
        if problems:
            raise UserError(problems)

    def propose(self, backbone: torch.Tensor, prompts: Sequence[Asked], first_position: int = 0) -> list[Proposals]:
        """See `DetectorLike`."""
        side = round(backbone.shape[1] ** 0.5)
        # Not `as_image`, whose layout rounds otherwise: scores would differ in their last bits.
        level = self._model.vision_encoder.neck.fpn_layers[_COARSE](backbone.transpose(1, 2).unflatten(2, (side, side)))
        search = self._transformer(level)
        groups = [self._find(search, level, group) for group in self._groups(prompts, level, search)]
        order = [place for group in groups for place in group.places]
        in_order = None if order == list(range(len(order))) else np.argsort(order).tolist()
        probs = _concatenated([group.probs for group in groups], 1)
        host, arrived = to_host(probs if in_order is None else probs[:, indices(in_order, probs.device)])
        return [Proposals(_Masks(self, backbone[n : n + 1], groups, n), host[n], arrived) for n in range(len(backbone))]

    def _groups(self, prompts: Sequence[Asked], level: torch.Tensor, search: DetectionTransformer) -> Iterator[_Group]:
        """The prompts in groups: phrases are seen as if there were no exemplars."""
        words = [place for place, each in enumerate(prompts) if isinstance(each, str)]
        if words:
            self._use(tuple(each for each in prompts if isinstance(each, str)))
            token = geometry_tokens(self._model, level, search.positions) if self._geometry_token else None
            yield _Group(words, self._text, self._mask, token)
        by_length: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
        for place, each in enumerate(prompts):
            if isinstance(each, Sought):
                text, mask = self._embedded(each.text)
                said = self._said(each, level, search)
                both = torch.cat([text, said], 1)
                wide = torch.nn.functional.pad(mask, (0, said.shape[1]), value=1)
                by_length.setdefault(both.shape[1], []).append((place, both, wide))
        for group in by_length.values():
            places, texts, masks = zip(*group, strict=True)
            yield _Group(list(places), _concatenated(texts), _concatenated(masks))

    def _said(self, sought: Sought, level: torch.Tensor, search: DetectionTransformer) -> torch.Tensor:
        """(1, tokens, C): what the boxes of this frame say, after what is kept of earlier ones."""
        kept = sought.kept
        parts = [] if kept is None else [tokens for _, tokens in kept.said]
        if sought.boxes:
            parts.append(geometry_tokens(self._model, level, search.positions, sought.boxes, sought.signs))
            if kept is not None:
                kept.said.append((sought.frame, parts[-1]))
        return _concatenated(parts, 1)

    def _find(self, search: DetectionTransformer, level: torch.Tensor, group: _Group) -> _Group:
        frames, count = len(level), len(group.places)
        pairs = [(frame, prompt) for frame in range(frames) for prompt in range(count)]
        found = []
        for start in range(0, len(pairs), self._batch):
            chunk = pairs[start : start + self._batch]
            frame_of, prompt_of = [pair[0] for pair in chunk], [pair[1] for pair in chunk]
            found.append(search(_rows(level, frame_of), *group.of(frame_of, prompt_of)))
        probs, queries, seen = (_concatenated(each) for each in zip(*found, strict=True))
        shape = frames, count
        return replace(
            group,
            probs=probs.float().view(*shape, -1),
            queries=queries.unflatten(0, shape),
            seen=seen.unflatten(0, shape),
        )

    def _transformer(self, level: torch.Tensor) -> DetectionTransformer:
        """For coarse features (frames, C, g, g). Made when the first frame tells g."""
        if self._search is None or self._search.positions.shape[-2:] != level.shape[-2:]:
            grid, model = level.shape[-1], self._model
            self._search = kept(self._whole, ("detector", grid), lambda: DetectionTransformer(model, grid))
        return self._search

    def _use(self, prompts: tuple[str, ...]) -> None:
        """Text features (prompts, tokens, channels) and attention masks (prompts, tokens) of these phrases."""
        if prompts == self._prompts:
            return
        self.check(prompts)
        found = [self._embedded(phrase, len(prompts)) for phrase in prompts]
        self._text = torch.cat([text for text, _ in found])
        self._mask = torch.cat([mask for _, mask in found])
        self._prompts = prompts

    def _embedded(self, phrase: str, needed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, tokens, channels) and (1, tokens) of a phrase, one of `needed` that are wanted together."""
        if phrase not in self._phrases:
            self._phrases[phrase] = self._embed(phrase)
        self._phrases.move_to_end(phrase)
        while len(self._phrases) > max(_MOST_PHRASES, needed):
            self._phrases.popitem(last=False)
        return self._phrases[phrase]

    def _embed(self, phrase: str) -> tuple[torch.Tensor, torch.Tensor]:
        encoded: Any = self._tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=MAX_TOKENS)
        ids, mask = (to_device(encoded[name], self._device) for name in ("input_ids", "attention_mask"))
        features = self._model.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
        return features.pooler_output, mask


@dataclass(frozen=True, eq=False)
class _Group:
    """Prompts with equally many tokens, and what they found on some frames.

    Attributes:
        places: of the prompts, among all that were asked for.
        text, mask: text features (prompts, tokens, C), and which of the tokens count.
        token: one of each frame's own (frames, 1, C), if there is one.
        probs: (frames, prompts, queries) scores.
        queries: (frames, prompts, queries, C), what the queries became.
        seen: (frames, prompts, g*g, C), what they looked at.
    """

    places: list[int]
    text: torch.Tensor
    mask: torch.Tensor
    token: torch.Tensor | None = None
    probs: torch.Tensor = _NONE
    queries: torch.Tensor = _NONE
    seen: torch.Tensor = _NONE

    def of(self, frames: Sequence[int], prompts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (pairs, tokens, C) and bool mask (pairs, tokens) of these (frame, prompt) pairs."""
        text, mask = _rows(self.text, prompts), _rows(self.mask, prompts).bool()
        if self.token is None:
            return text, mask
        return torch.cat([text, _rows(self.token, frames)], 1), torch.nn.functional.pad(mask, (0, 1), value=True)


@dataclass(frozen=True, eq=False)
class _Masks:
    """The masks of one frame, made on demand; until then, their ingredients."""

    detector: Detector
    backbone: torch.Tensor  # (1, tokens, channels)
    groups: list[_Group]
    frame: int  # of those that the groups are of

    def __call__(self, prompts: Sequence[int]) -> torch.Tensor:
        if len(self.groups) == 1:
            return self._of_group(self.groups[0], prompts)
        order: list[int] = []
        masks = []
        for group in self.groups:
            chosen = [place for place in group.places if place in prompts]
            if chosen:
                masks.append(self._of_group(group, [group.places.index(place) for place in chosen]))
                order += chosen
        wanted = [order.index(place) for place in prompts]
        return _rows(_concatenated(masks), wanted)

    def _of_group(self, group: _Group, prompts: Sequence[int]) -> torch.Tensor:
        detector, spatial = self.detector, as_image(self.backbone)
        masks = []
        for start in range(0, len(prompts), detector._batch):
            few = prompts[start : start + detector._batch]
            asked = group.of([self.frame] * len(few), few)
            queries, seen = _rows(group.queries[self.frame], few), _rows(group.seen[self.frame], few)
            masks.append(detector._masks(spatial, queries, seen, *asked))
        return _concatenated(masks)


def detections_above(proposals: Proposals, score_threshold: float) -> Detections:
    """Proposals above the threshold. Makes the masks of their prompts, and of no others."""
    if proposals.arrived is not None:
        proposals.arrived.synchronize()
    probs = proposals.probs.numpy()
    prompts, queries = np.nonzero(probs > score_threshold)
    scores = probs[prompts, queries]
    found, place = np.unique(prompts, return_inverse=True)
    if len(found) == 0:
        return Detections(torch.empty((0, 1, 1)), scores, prompts)
    masks = proposals.masks_of(found.tolist())
    index = indices([place.tolist(), queries.tolist()], masks.device)
    return Detections(masks[index[0], index[1]], scores, prompts)


def nms_by_phrase(detections: Detections, overlap: np.ndarray, threshold: float) -> np.ndarray:
    """Which detections survive mask NMS among those of their phrase: (n,) bool.

    Args:
        overlap: (n, n) mask IoU.
        threshold: 0 switches NMS off.
    """
    keep = np.ones(len(detections), dtype=bool)
    if threshold > 0:
        for prompt in np.unique(detections.prompts):
            group = np.flatnonzero(detections.prompts == prompt)
            keep[group] = nms(overlap[np.ix_(group, group)], detections.scores[group], threshold)
    return keep


def _concatenated(parts: Sequence[torch.Tensor], along: int = 0) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), along)


def _rows(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """tensor[rows] without a copy where all rows are the same one, or all rows in order."""
    if len(set(rows)) == 1:
        return tensor[rows[0] : rows[0] + 1].expand(len(rows), *[-1] * (tensor.ndim - 1))
    if list(rows) == list(range(len(tensor))):
        return tensor
    return tensor[indices(rows, tensor.device)]
