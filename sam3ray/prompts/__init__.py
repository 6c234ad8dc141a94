"""Resolves prompts against their video, to frames and pixels, and checks that they lie inside it."""

from sam3ray.prompts._check import check_prompts, describe, place_problem
from sam3ray.prompts._resolve import MaskFile, read_mask_file, resolve_exemplars, resolve_prompts
from sam3ray.values.exemplars import (
    exemplar_items,
    exemplar_problem,
    named_exemplars,
    parse_exemplars,
    with_exemplar_phrases,
)
from sam3ray.values.phrases import (
    MAX_PHRASE_CHARS,
    MAX_PHRASES,
    as_names,
    as_phrases,
    comma_warning,
    phrases_problem,
    split_phrases,
)
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompt_writing import prompt_items
from sam3ray.values.prompts import (
    UNRESOLVED,
    BoxPrompt,
    ExemplarPrompt,
    MaskPrompt,
    PointPrompt,
    TextPrompt,
    Units,
    VisualPrompt,
)

__all__ = [
    "BoxPrompt",
    "ExemplarPrompt",
    "MaskPrompt",
    "PointPrompt",
    "TextPrompt",
    "VisualPrompt",
    "Units",
    "UNRESOLVED",
    "MAX_PHRASES",
    "MAX_PHRASE_CHARS",
    "as_names",
    "as_phrases",
    "check_prompts",
    "comma_warning",
    "describe",
    "exemplar_items",
    "exemplar_problem",
    "named_exemplars",
    "parse_exemplars",
    "place_problem",
    "resolve_exemplars",
    "with_exemplar_phrases",
    "parse_visual_prompts",
    "phrases_problem",
    "prompt_items",
    "MaskFile",
    "read_mask_file",
    "resolve_prompts",
    "split_phrases",
]
