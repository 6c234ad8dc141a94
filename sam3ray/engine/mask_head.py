"""Runs prompt encoder and mask decoder in batches: from image features and prompts to one mask per object.

Chooses the best of the candidate masks before resizing. transformers resizes all of them first
(modeling_sam3_tracker_video.py of 5.23, `_single_frame_forward`); the choice is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3TrackerVideoModel

from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.vision import FrameFeatures

NO_OBJECT = -1024.0  # mask logit of an absent object, as in the models' own code


@dataclass(frozen=True, eq=False)
class HeadOutput(TrackedMasks):
    """N objects on one frame, with pointers (N, C). The mask of an absent object is `NO_OBJECT` everywhere."""

    pointers: Tensor


class MaskHead:
    """The tracker's prompt encoder, mask decoder and pointer projection, over many objects at once."""

    def __init__(self, tracker: Sam3TrackerVideoModel) -> None:
        self.tracker = tracker
        self.encoder = tracker.prompt_encoder
        self.decoder = tracker.mask_decoder
        weight = self.encoder.no_mask_embed.weight
        self.image_positions = tracker.get_image_wide_positional_embeddings().to(weight.dtype)
        none = torch.zeros(1, 1, 1, 2, dtype=weight.dtype, device=weight.device)
        # Without a prompt, the input is a single "not a point"; the encoder adds another as padding.
        self.no_prompt, self.no_mask = self.encoder(
            none, -torch.ones(1, 1, 1, dtype=torch.int32, device=weight.device), None, None
        )

    def uses_multimask(self, points: int) -> bool:
        """Whether candidate masks compete, which the checkpoint's config sets for few clicks and for tracking."""
        config = self.tracker.config
        return config.multimask_output_in_sam and config.multimask_min_pt_num <= points <= config.multimask_max_pt_num

    def __call__(
        self,
        images: Tensor,
        features: FrameFeatures,
        *,
        multimask: bool,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> HeadOutput:
        """Decodes one mask per object.

        Args:
            images: (N, C, g, g), the output of memory attention (or its stand-in) for `features.top`.
            points: (N, n, 2) in pixels of the model's image; None without clicks.
            labels: (N, n): 1 on the object, 0 off it, 2 and 3 the corners of a box.
            masks: (N, h, h) earlier logits to start from.
        """
        n = len(images)
        if points is None and masks is None:
            sparse, dense = self.no_prompt, self.no_mask
        else:
            if points is None or labels is None:
                points = torch.zeros(n, 1, 2, dtype=images.dtype, device=images.device)
                labels = -torch.ones(n, 1, dtype=torch.int32, device=images.device)
            dense_input = None if masks is None else self._to_prompt_size(masks.unsqueeze(1))
            sparse, dense = self.encoder(points.unsqueeze(1), labels.unsqueeze(1), None, dense_input)
        logits, ious, tokens, scores = self.decoder(
            image_embeddings=images,
            image_positional_embeddings=self.image_positions,
            sparse_prompt_embeddings=sparse.expand(n, -1, -1, -1),
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[features.fine, features.middle],
        )
        logits, ious, tokens, scores = logits[:, 0], ious[:, 0], tokens[:, 0], scores[:, 0]
        best_iou, best = ious.max(dim=-1)
        rows = torch.arange(n, device=best.device)
        chosen = logits[rows, best]
        # A single-mask output has one token, whichever mask the stability check chose.
        token = tokens[rows, best] if tokens.shape[1] > 1 else tokens[:, 0]
        is_there = scores > 0  # (N, 1)
        pointers = self.blend(self.tracker.object_pointer_proj(token), is_there)
        chosen = torch.where(is_there[..., None], chosen, NO_OBJECT)
        return HeadOutput(chosen, scores[:, 0], best_iou, pointers)

    def blend(self, pointers: Tensor, is_there: Tensor) -> Tensor:
        """Pointers (N, C), replaced by the learned "no object" pointer where is_there (N, 1) is False."""
        there = is_there.to(pointers.dtype)
        return there * pointers + (1 - there) * self.tracker.no_object_pointer

    def mask_pointers(self, features: FrameFeatures, masks: Tensor, *, multimask: bool) -> Tensor:
        """Pointers (N, C) of objects that are given as masks (N, 1, S, S) in 0..1.

        As in Meta's code and transformers, the features contain no memory, not even the learned "no memory" embedding.
        An empty mask means an absent object.
        """
        g_h, g_w = self.encoder.image_embedding_size
        images = features.top.transpose(1, 2).reshape(1, -1, g_h, g_w).expand(len(masks), -1, -1, -1)
        prompt = self.tracker.mask_downsample(masks.to(features.top.dtype))[:, 0]
        pointers = self(images, features, multimask=multimask, masks=prompt).pointers
        return self.blend(pointers, (masks > 0).flatten(1).any(dim=1, keepdim=True))

    def _to_prompt_size(self, masks: Tensor) -> Tensor:
        size = self.encoder.mask_input_size
        return masks if masks.shape[-2:] == size else resize(masks, size, antialias=True)


def resize(masks: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """(N, 1, H, W) -> (N, 1, *size), bilinear, computed in float32, in the dtype of the input."""
    out = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return out.to(masks.dtype)
