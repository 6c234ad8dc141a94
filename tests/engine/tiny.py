"""A tiny `Sam3VideoModel` with random weights, small enough for a test and complete enough to track."""

from __future__ import annotations

import functools

import torch
from transformers import Sam3VideoConfig, Sam3VideoModel

from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import FrameFeatures, neck_of

IMAGE = 112
PATCH = 8
WIDTH = 128  # of the features: an object's pointer is two tokens of its memory
SMALL = 56  # of an image; a frame takes a quarter of the time
NARROW = 64  # of its features: a pointer is one token, which is more than transformers' own code can do


def tiny_config(image: int | None = None, width: int = WIDTH, **tracker: object) -> Sam3VideoConfig:
    image = image or IMAGE
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": image,
            "patch_size": PATCH,
            "pretrain_image_size": image,
            "window_size": image // PATCH,
            "global_attn_indexes": [0, 1],
        },
        "fpn_hidden_size": width,
        "image_size": image,
    }
    detector = {
        "vision_config": vision,
        "text_config": {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 32,
            "max_position_embeddings": 32,
        },
        "geometry_encoder_config": {
            "hidden_size": width,
            "num_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        },
        "detr_encoder_config": {
            "hidden_size": width,
            "num_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        },
        "detr_decoder_config": {
            "hidden_size": width,
            "num_layers": 1,
            "num_attention_heads": 4,
            "num_queries": 4,
            "intermediate_size": 64,
        },
        "mask_decoder_config": {"hidden_size": width, "num_upsampling_stages": 2, "num_attention_heads": 4},
    }
    options = {
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 2,
        "memory_attention_num_attention_heads": 2,
        "memory_attention_feed_forward_hidden_size": width,
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": width,
    }
    tracker_config = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": width, "image_size": image, "patch_size": PATCH},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": width,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 64,
        },
        "image_size": image,
        **options,
        **tracker,
    }
    return Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker_config, low_res_mask_size=4 * image // PATCH
    )


@functools.lru_cache(maxsize=6)
def tiny_model(seed: int = 0, presence: float = 0.0, image: int = IMAGE, width: int = WIDTH) -> Sam3VideoModel:
    """Weights that make objects come, go and differ: not the near-zero ones of a fresh model.

    `presence` is added to the logit of an object being there.
    """
    torch.manual_seed(seed)
    model = Sam3VideoModel(tiny_config(image, width)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        tracker = model.tracker_model
        tracker.memory_temporal_positional_encoding.normal_(0, 0.5)
        tracker.mask_decoder.pred_obj_score_head.proj_out.weight.mul_(4)
        tracker.mask_decoder.pred_obj_score_head.proj_out.bias.add_(presence)
    return model.requires_grad_(False)


def small_model(seed: int = 0, presence: float = 0.0) -> Sam3VideoModel:
    """For tests that compare the engine with itself; what transformers does as well is compared on `tiny_model`."""
    return tiny_model(seed, presence, SMALL, NARROW)


def backbone_features(model: Sam3VideoModel, pixels: torch.Tensor) -> torch.Tensor:
    """The shared backbone alone: (B, 3, S, S) -> (B, g*g, its width)."""
    return model.detector_model.vision_encoder.backbone(pixels).last_hidden_state


class SeeingTracker(Tracker):
    """A tracker that makes the features of frames itself."""

    def __init__(self, model: Sam3VideoModel, rules: str = "published", *args: object, **options: object) -> None:
        super().__init__(model, rules, *args, **options)
        self._neck = neck_of(model, folded=rules == "published")

    @torch.inference_mode()
    def features(self, hidden: torch.Tensor) -> list[FrameFeatures]:
        """Backbone output (B, g*g, width) -> the features of B frames."""
        return self._neck(hidden)
