"""Where each weight of Meta's classes (PyPI's `sam3` 0.1.4) is in transformers' `Sam3VideoModel`.

`target` names one place for one weight. What is not the same tensor under another name is marked by its place: three
projections in one (`{q,k,v}`), a transposed matrix, a row of a table, one weight in two places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Change = Literal["same", "split", "transpose", "no class token"]


@dataclass(frozen=True)
class Target:
    """Where a weight goes.

    Attributes:
        names: in transformers' model. With `split` there are three, for equal parts along the first dimension.
        row: of that table; None where it is all of it.
    """

    names: tuple[str, ...]
    change: Change = "same"
    row: int | None = None


# Without a place in transformers' model, and without effect on what the engine computes: rotary positions, which are
# computed, and the geometry encoder's way to encode points, which neither code uses.
UNUSED = re.compile(r"detector\..*\.attn\.freqs_cis|detector\.geometry_encoder\.points_\w+_project\.(weight|bias)")

# (pattern of a prefix, what stands in its place), the first that fits; what follows the prefix stays.
_DETECTOR = (
    (r"backbone\.vision_backbone\.trunk\.", r"vision_encoder.backbone.[trunk]"),
    (r"backbone\.vision_backbone\.convs\.(\d)\.", r"vision_encoder.neck.fpn_layers.\1.[scale]"),
    (r"backbone\.vision_backbone\.sam2_convs\.(\d)\.", r"/tracker_neck.fpn_layers.\1.[scale]"),
    (r"backbone\.language_backbone\.resizer\.", r"text_projection."),
    (r"backbone\.language_backbone\.encoder\.", r"text_encoder.[text]"),
    (r"geometry_encoder\.norm\.", r"geometry_encoder.prompt_layer_norm."),
    (r"geometry_encoder\.img_pre_norm\.", r"geometry_encoder.vision_layer_norm."),
    (r"geometry_encoder\.encode_norm\.", r"geometry_encoder.output_layer_norm."),
    (r"geometry_encoder\.encode\.(\d+)\.", r"geometry_encoder.layers.\1.[layer]"),
    (r"geometry_encoder\.(label_embed|cls_embed|final_proj|boxes_\w+_project)\.", r"geometry_encoder.\1."),
    (r"transformer\.encoder\.layers\.(\d+)\.", r"detr_encoder.layers.\1.[layer]"),
    (r"transformer\.decoder\.layers\.(\d+)\.", r"detr_decoder.layers.\1.[decoder layer]"),
    (r"transformer\.decoder\.norm\.", r"detr_decoder.output_layer_norm."),
    (r"transformer\.decoder\.presence_token_out_norm\.", r"detr_decoder.presence_layer_norm."),
    (r"transformer\.decoder\.(query_embed|reference_points|presence_token)\.", r"detr_decoder.\1."),
    (r"transformer\.decoder\.presence_token_head\.layers\.(\d)\.", r"detr_decoder.presence_head.[next]\1."),
    (r"transformer\.decoder\.bbox_embed\.layers\.(\d)\.", r"detr_decoder.box_head.[next]\1."),
    (r"transformer\.decoder\.ref_point_head\.layers\.(\d)\.", r"detr_decoder.ref_point_head.[next]\1."),
    (r"transformer\.decoder\.boxRPB_embed_([xy])\.layers\.(\d)\.", r"detr_decoder.box_rpb_embed_\1.[next]\2."),
    (r"segmentation_head\.pixel_decoder\.", r"mask_decoder.pixel_decoder."),
    (r"segmentation_head\.mask_predictor\.mask_embed\.", r"mask_decoder.mask_embedder."),
    (r"segmentation_head\.semantic_seg_head\.", r"mask_decoder.semantic_projection."),
    (r"segmentation_head\.instance_seg_head\.", r"mask_decoder.instance_projection."),
    (r"segmentation_head\.cross_attn_norm\.", r"mask_decoder.prompt_cross_attn_norm."),
    (r"segmentation_head\.cross_attend_prompt\.", r"mask_decoder.prompt_cross_attn.[attention]"),
    (r"dot_prod_scoring\.prompt_mlp\.layers\.(\d)\.", r"dot_product_scoring.text_mlp.[next]\1."),
    (r"dot_prod_scoring\.prompt_mlp\.out_norm\.", r"dot_product_scoring.text_mlp_out_norm."),
    (r"dot_prod_scoring\.prompt_proj\.", r"dot_product_scoring.text_proj."),
    (r"dot_prod_scoring\.hs_proj\.", r"dot_product_scoring.query_proj."),
)
_TRACKER = (
    (r"maskmem_tpos_enc", r"memory_temporal_positional_encoding"),
    (r"no_mem_embed", r"no_memory_embedding"),
    (r"no_mem_pos_enc", r"no_memory_positional_encoding"),
    (r"no_obj_ptr", r"no_object_pointer"),
    (r"no_obj_embed_spatial", r"occlusion_spatial_embedding_parameter"),
    (r"mask_downsample\.", r"mask_downsample."),
    (r"obj_ptr_tpos_proj\.", r"temporal_positional_encoding_projection_layer."),
    (r"obj_ptr_proj\.layers\.(\d)\.", r"object_pointer_proj.[of three]\1."),
    (r"transformer\.encoder\.norm\.", r"memory_attention.layer_norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm(\d)\.", r"memory_attention.layers.\1.layer_norm\2."),
    (r"transformer\.encoder\.layers\.(\d+)\.(\w+)\.out_proj\.", r"memory_attention.layers.\1.\2.o_proj."),
    (r"transformer\.encoder\.layers\.(\d+)\.", r"memory_attention.layers.\1."),
    (r"maskmem_backbone\.", r"memory_encoder.[memory encoder]"),
    (r"sam_prompt_encoder\.(not_a_point_embed|no_mask_embed)\.", r"prompt_encoder.\1."),
    *(
        (rf"sam_prompt_encoder\.mask_downscaling\.{i}\.", f"prompt_encoder.mask_embed.{part}.")
        for i, part in {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}.items()
    ),
    (r"sam_mask_decoder\.", r"mask_decoder.[mask decoder]"),
)
# What a marker in square brackets stands for, with what follows it.
_INNER = {
    "[trunk]": (
        (r"blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
        (r"blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.o_proj."),
        (r"blocks\.(\d+)\.attn\.qkv\.", r"layers.\1.attention.{}_proj."),
        (r"blocks\.(\d+)\.mlp\.", r"layers.\1.mlp."),
        (r"ln_pre\.", r"layer_norm."),
        (r"patch_embed\.proj\.", r"embeddings.patch_embeddings.projection."),
        (r"pos_embed", r"embeddings.position_embeddings"),
    ),
    "[text]": (
        (r"positional_embedding", r"text_model.embeddings.position_embedding.weight"),
        (r"token_embedding\.", r"text_model.embeddings.token_embedding."),
        (r"text_projection", r"text_projection.weight"),
        (r"ln_final\.", r"text_model.final_layer_norm."),
        (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"text_model.encoder.layers.\1.layer_norm\2."),
        (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"text_model.encoder.layers.\1.mlp.fc1."),
        (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"text_model.encoder.layers.\1.mlp.fc2."),
        (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"text_model.encoder.layers.\1.self_attn.{}_proj."),
        (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"text_model.encoder.layers.\1.self_attn.out_proj."),
    ),
    "[memory encoder]": (
        (r"pix_feat_proj\.", r"feature_projection."),
        (r"out_proj\.", r"projection."),
        (r"mask_downsampler\.encoder\.12\.", r"mask_downsampler.final_conv."),
        *(
            (rf"mask_downsampler\.encoder\.{3 * i + j}\.", rf"mask_downsampler.layers.{i}.{part}.")
            for i in range(4)
            for j, part in enumerate(("conv", "layer_norm"))
        ),
        (r"fuser\.layers\.(\d+)\.gamma", r"memory_fuser.layers.\1.scale"),
        (r"fuser\.layers\.(\d+)\.norm\.", r"memory_fuser.layers.\1.layer_norm."),
        (r"fuser\.layers\.(\d+)\.dwconv\.", r"memory_fuser.layers.\1.depthwise_conv."),
        (r"fuser\.layers\.(\d+)\.pwconv([12])\.", r"memory_fuser.layers.\1.pointwise_conv\2."),
    ),
    "[mask decoder]": (
        (r"(iou_token|mask_tokens|obj_score_token|conv_s0|conv_s1)\.", r"\1."),
        (r"(iou_prediction_head|pred_obj_score_head)\.layers\.(\d)\.", r"\1.[of three]\2."),
        (r"output_hypernetworks_mlps\.(\d)\.layers\.(\d)\.", r"output_hypernetworks_mlps.\1.[of three]\2."),
        (r"output_upscaling\.0\.", r"upscale_conv1."),
        (r"output_upscaling\.1\.", r"upscale_layer_norm."),
        (r"output_upscaling\.3\.", r"upscale_conv2."),
        (r"transformer\.norm_final_attn\.", r"transformer.layer_norm_final_attn."),
        (r"transformer\.(layers\.\d+\.)norm(\d)\.", r"transformer.\1layer_norm\2."),
        (r"transformer\.(layers\.\d+\.)mlp\.lin1\.", r"transformer.\1mlp.proj_in."),
        (r"transformer\.(layers\.\d+\.)mlp\.lin2\.", r"transformer.\1mlp.proj_out."),
        (r"transformer\.(.*attn\w*)\.out_proj\.", r"transformer.\1.o_proj."),
        (r"transformer\.", r"transformer."),
    ),
    "[scale]": (
        (r"dconv_2x2(_0)?\.", r"scale_layers.0."),
        (r"dconv_2x2_1\.", r"scale_layers.2."),
        (r"conv_1x1\.", r"proj1."),
        (r"conv_3x3\.", r"proj2."),
    ),
    "[layer]": (
        (r"norm(\d)\.", r"layer_norm\1."),
        (r"linear([12])\.", r"mlp.fc\1."),
        (r"cross_attn_image\.", r"cross_attn.[attention]"),
        (r"self_attn\.", r"self_attn.[attention]"),
    ),
    "[decoder layer]": (
        (r"norm1\.", r"vision_cross_attn_layer_norm."),
        (r"norm2\.", r"self_attn_layer_norm."),
        (r"norm3\.", r"mlp_layer_norm."),
        (r"catext_norm\.", r"text_cross_attn_layer_norm."),
        (r"linear([12])\.", r"mlp.fc\1."),
        (r"cross_attn\.", r"vision_cross_attn.[attention]"),
        (r"ca_text\.", r"text_cross_attn.[attention]"),
        (r"self_attn\.", r"self_attn.[attention]"),
    ),
    "[attention]": ((r"in_proj_", r"{}_proj."), (r"out_proj\.", r"o_proj.")),
    "[next]": ((r"0\.", r"layer1."), (r"1\.", r"layer2."), (r"2\.", r"layer3.")),
    "[of three]": ((r"0\.", r"proj_in."), (r"1\.", r"layers.0."), (r"2\.", r"proj_out.")),
}


def target(name: str) -> Target | None:
    """Where the weight `detector.…` or `tracker.…` goes; None where there is no such weight in Meta's classes."""
    part, _, rest = name.partition(".")
    if name == "tracker.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
        places = ("shared_image_embedding", "prompt_encoder.shared_embedding")
        return Target(tuple(f"tracker_model.{place}.positional_embedding" for place in places))
    if row := re.fullmatch(r"tracker\.sam_prompt_encoder\.point_embeddings\.(\d)\.weight", name):
        return Target(("tracker_model.prompt_encoder.point_embed.weight",), row=int(row[1]))
    rules = {"detector": _DETECTOR, "tracker": _TRACKER}.get(part, ())
    placed = _first(rest, rules)
    while placed is not None and (marker := re.search(r"\[[a-z ]+\]", placed)):
        inner = _first(placed[marker.end() :], _INNER[marker[0]])
        placed = None if inner is None else placed[: marker.start()] + inner
    if placed is None:
        return None
    placed = placed[1:] if placed.startswith("/") else f"{part}_model.{placed}"
    if "{}" in placed:
        return Target(tuple(placed.format(each) for each in "qkv"), "split")
    if placed.endswith("text_encoder.text_projection.weight"):
        return Target((placed,), "transpose")
    if placed.endswith("embeddings.position_embeddings"):
        return Target((placed,), "no class token")
    return Target((placed,))


def _first(text: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        found = re.match(pattern, text)
        if found:
            return found.expand(replacement) + text[found.end() :]
    return None
