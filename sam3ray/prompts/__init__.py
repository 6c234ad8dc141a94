"""Prompts: what to find or follow in a clip."""

from sam3ray.prompts._phrases import MAX_PHRASE_CHARS, MAX_PHRASES, phrases_problem, split_phrases
from sam3ray.prompts._values import UNRESOLVED, BoxPrompt, MaskPrompt, PointPrompt, TextPrompt, Units, VisualPrompt

__all__ = [
    "BoxPrompt",
    "MaskPrompt",
    "PointPrompt",
    "TextPrompt",
    "VisualPrompt",
    "Units",
    "UNRESOLVED",
    "MAX_PHRASES",
    "MAX_PHRASE_CHARS",
    "phrases_problem",
    "split_phrases",
]
