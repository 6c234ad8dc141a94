"""The architecture of the embedded checkpoint, and checkpoints of any size with random weights.

The files are those of facebook/sam3: config.json, model.safetensors, the tokenizer's and the processor's.
"""

from __future__ import annotations

import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor
from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

from sam3ray.shapes import COLOURS, FOREIGN, SHAPES, phrases

_SHIPPED = 600  # tokens of the package's tokenizer


def tiny_config(
    image_size: int = 112, *, width: int = 128, layers: int = 4, vocabulary: int = _SHIPPED
) -> Sam3VideoConfig:
    """About 5.4 M parameters at the defaults. `image_size` in pixels, a multiple of the patch of 8."""
    patch = 8
    grid = image_size // patch
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": patch,
            "pretrain_image_size": image_size,
            "window_size": grid,
            "global_attn_indexes": list(range(layers)),
            "layer_scale_init_value": None,
        },
        "fpn_hidden_size": 128,
        "image_size": image_size,
    }
    detr = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, "dropout": 0.0}
    detector = {
        "vision_config": vision,
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 64,
            "max_position_embeddings": 77,
        },
        "geometry_encoder_config": {**detr, "num_layers": 1, "intermediate_size": 64, "roi_size": 2},
        "detr_encoder_config": {**detr, "num_layers": 2},
        "detr_decoder_config": {**detr, "num_layers": 3, "num_queries": 16},
        "mask_decoder_config": {
            "hidden_size": 128, "num_upsampling_stages": 2, "num_attention_heads": 4, "dropout": 0.0,
        },
    }  # fmt: skip
    tracker = {
        "vision_config": vision,
        "image_size": image_size,
        "prompt_encoder_config": {"hidden_size": 128, "image_size": image_size, "patch_size": patch},
        "mask_decoder_config": {
            "hidden_size": 128,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 128,
            "num_multimask_outputs": 3,
            "dynamic_multimask_via_stability": False,
        },
        "num_maskmem": 4,
        "multimask_output_in_sam": False,
        "memory_attention_hidden_size": 128,
        "memory_attention_num_layers": 2,
        "memory_attention_num_attention_heads": 2,
        "memory_attention_feed_forward_hidden_size": 256,
        "memory_attention_dropout": 0.0,
        "memory_attention_rope_dropout": 0.0,
        "memory_encoder_hidden_size": 128,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": 128,
        "memory_fuser_embed_dim": 128,
        "memory_fuser_intermediate_dim": 256,
        "memory_fuser_layer_scale_init_value": 0.5,
    }
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * grid)


def initialise(model: Sam3VideoModel, seed: int) -> None:
    """Sets the weights to start training from. The default ones are far too small for such a narrow model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for name, parameter in model.named_parameters():
            if id(parameter) in tables or (parameter.ndim > 1 and not name.endswith("weight")):
                parameter.normal_(0, 0.2, generator=generator)
            elif parameter.ndim > 1:
                receptive = parameter[0][0].numel() if parameter.ndim > 2 else 1
                bound = math.sqrt(6.0 / ((parameter.shape[0] + parameter.shape[1]) * receptive))
                parameter.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias") and "norm" not in name:
                parameter.uniform_(-0.05, 0.05, generator=generator)
        # Features of about the size of the position encodings (0.5), and mask logits that start near zero.
        for layer in model.detector_model.vision_encoder.neck.fpn_layers:
            layer.proj2.weight.mul_(0.5)
        model.detector_model.mask_decoder.mask_embedder.layers[-1].weight.mul_(0.1)
        decoder = model.detector_model.detr_decoder
        anchors = decoder.reference_points.weight
        side = round(math.sqrt(anchors.shape[0]))
        for index in range(anchors.shape[0]):
            row, column = divmod(index, side)
            centre = torch.tensor([(column + 0.5) / side, (row + 0.5) / side, 0.25, 0.3]).clamp(0.02, 0.98)
            anchors[index] = torch.logit(centre)
        # Box-relative bias: high between the two edges, where the deltas to them have opposite signs.
        for mlp in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y):
            first, last = mlp.layer1, mlp.layer2
            first.weight.normal_(0, 0.3, generator=generator)
            first.bias.zero_()
            half = first.weight.shape[0] // 2
            first.weight[:half] = torch.tensor([1.0, 0.0])
            first.weight[half:] = torch.tensor([0.0, 1.0])
            first.weight[half // 2 : half] *= -1
            first.weight[half + half // 2 :] *= -1
            last.weight.normal_(0, 0.02, generator=generator)
            # outside on the low side (delta to the low edge < 0) or on the high side (delta to the high edge > 0)
            last.weight[:, half // 2 : half] = -4.0 / (half // 2)
            last.weight[:, half : half + half // 2] = -4.0 / (half // 2)
            last.bias.zero_()
        model.detector_model.detr_decoder.box_head.layer3.weight.mul_(0.1)
        model.detector_model.detr_decoder.box_head.layer3.bias.zero_()
        tracker = model.tracker_model
        tracker.mask_decoder.output_hypernetworks_mlps[0].proj_out.weight.mul_(0.1)
        tracker.memory_temporal_positional_encoding.normal_(0, 0.2, generator=generator)
        for layer in tracker.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(0.5)  # transformers sets it to 0, ignoring the configuration
        tracker.no_memory_embedding.normal_(0, 0.2, generator=generator)
        tracker.no_object_pointer.normal_(0, 0.2, generator=generator)
        if tracker.occlusion_spatial_embedding_parameter is not None:
            tracker.occlusion_spatial_embedding_parameter.normal_(0, 0.2, generator=generator)
        # The two Fourier buffers encode the same coordinates.
        shared = tracker.shared_image_embedding.positional_embedding
        tracker.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)


def make_tokenizer(vocabulary: int = _SHIPPED) -> CLIPTokenizer:
    """A byte-level BPE like CLIP's, learnt from the drawn clips' phrases. At the usual size it is the package's
    tokenizer.
    """
    if vocabulary == _SHIPPED:  # learning breaks ties at random, so it was learnt once and stored
        return CLIPTokenizer.from_pretrained(str(resources.files("sam3ray") / "embedded"))
    corpus = [phrase for colour in (None, *COLOURS) for shape in (None, *SHAPES) for phrase in phrases(colour, shape)]
    corpus += list(FOREIGN)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary - 2,
            end_of_word_suffix="</w>",
            initial_alphabet=letters,
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    known = set(tokens)
    merges = []
    for left, right in learnt["merges"]:
        if len(tokens) + 2 >= vocabulary:
            break
        if left in known and right in known:
            merges.append((left, right))
            if left + right not in known:
                tokens.append(left + right)
                known.add(left + right)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)  # type: ignore[arg-type]


def save(model: Sam3VideoModel, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> Path:
    """Writes a complete checkpoint folder. The model in memory keeps its dtype."""
    import copy

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    half_precision: Any = copy.deepcopy(model)
    half_precision.to(dtype).save_pretrained(folder)
    size = model.detector_model.config.vision_config.image_size
    square = {"height": size, "width": size}
    low_res = {"height": model.config.low_res_mask_size, "width": model.config.low_res_mask_size}
    half = [0.5, 0.5, 0.5]
    image_processor = Sam3ImageProcessor(size=square, mask_size=low_res, image_mean=half, image_std=half)
    video_processor = Sam2VideoVideoProcessor(size=square, image_mean=half, image_std=half)
    tokenizer = make_tokenizer(model.detector_model.config.text_config.vocab_size)
    Sam3VideoProcessor(image_processor, video_processor, tokenizer).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    return folder


def random_checkpoint(
    folder: str | os.PathLike[str], *, seed: int = 0, dtype: torch.dtype = torch.float32, **size: Any
) -> Path:
    """Makes a checkpoint with random weights. `size` takes arguments of `tiny_config`."""
    torch.manual_seed(seed)
    model = Sam3VideoModel(tiny_config(**size)).eval()
    initialise(model, seed)
    return save(model, folder, dtype)
