"""Checkpoints to measure with: the layout of the embedded one, or the full-size one, with random weights."""

from __future__ import annotations

import string
from typing import Any

import torch
from transformers import CLIPTokenizer, Sam2VideoVideoProcessor, Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

from sam3ray.engine import host_linear
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.compiling import compile_layers
from sam3ray.engine.device_memory import grow_in_place
from sam3ray.engine.host_memory import reuse_freed
from sam3ray.engine.positions import restore


def small_config(image: int = 112, layers: int = 4) -> Sam3VideoConfig:
    """The layout of the embedded checkpoint: six million parameters at 112 pixels.

    Args:
        image: side of the model's image, in pixels.
        layers: layers of the backbone; the other parts have at most half as many.
    """
    patch, width, some = 8, 128, max(1, layers // 2)
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "image_size": image,
            "patch_size": patch,
            "pretrain_image_size": image,
            "window_size": image // patch,
            "global_attn_indexes": list(range(layers)),
        },
        "fpn_hidden_size": width,
        "image_size": image,
    }
    transformer = {"hidden_size": width, "num_attention_heads": 4, "intermediate_size": 256, "dropout": 0.0}
    detector = {
        "vision_config": vision,
        "text_config": {
            "vocab_size": 600,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 64,
            "max_position_embeddings": 77,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        "geometry_encoder_config": {**transformer, "num_layers": 1},
        "detr_encoder_config": {**transformer, "num_layers": some},
        "detr_decoder_config": {**transformer, "num_layers": min(3, layers), "num_queries": 16},
        "mask_decoder_config": {"hidden_size": width, "num_upsampling_stages": 2, "num_attention_heads": 4},
    }
    tracker = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": width, "image_size": image, "patch_size": patch},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
            "dynamic_multimask_via_stability": False,
        },
        "image_size": image,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": some,
        "memory_attention_num_attention_heads": 2,
        "memory_attention_feed_forward_hidden_size": 256,
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 256,
        "num_maskmem": 7,
    }
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * image // patch)


def least_config() -> Sam3VideoConfig:
    """The same at 56 pixels with one layer, for measurements that do not depend on the model's size."""
    return small_config(image=56, layers=1)


def full_config() -> Sam3VideoConfig:
    """The architecture of facebook/sam3: 1008 pixels, about 850 million parameters."""
    return Sam3VideoConfig()


def processor(image: int) -> Sam3VideoProcessor:
    """A processor for a model of this many pixels a side. Its vocabulary is single letters."""
    letters = string.ascii_lowercase
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    size = {"height": image, "width": image}
    return Sam3VideoProcessor(
        image_processor=Sam3ImageProcessor(size=size),
        video_processor=Sam2VideoVideoProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[]),
        target_size=image,
    )


def build(size: str, device: str, dtype: str, compiled: bool, plain: bool = False) -> Checkpoint:
    """A checkpoint with random weights. Its tracker considers every object present.

    `plain` is for transformers' own code, which needs one dtype throughout: positions and process settings stay as
    transformers makes them. Otherwise both are as `load_checkpoint` sets them.
    """
    config = {"least": least_config, "small": small_config, "full": full_config}[size]()
    if not plain:
        grow_in_place()
    torch.manual_seed(0)
    where, kind = torch.device(device), getattr(torch, dtype)
    with where:
        model = Sam3VideoModel(config)
    model = model.to(kind).eval().requires_grad_(False)
    if not plain:
        restore(model)
        if where.type == "cpu":
            reuse_freed()
            if kind == torch.float32:
                host_linear.use(model)
    decoder: Any = model.tracker_model.mask_decoder
    decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
    if compiled:
        compile_layers(model, where)
    return Checkpoint(model, processor(model.detector_model.config.image_size), where, kind, autocast=False, info={})
