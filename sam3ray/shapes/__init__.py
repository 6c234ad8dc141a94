"""Drawn clips of moving coloured shapes, with exact masks, boxes, ids and visibility. Seeded and versioned."""

from .draw import Artist, DrawnFrame, draw_clip
from .scene import GENERATOR_VERSION, ClipSpec, Scene, Thing, make_scene
from .words import COLOURS, FOREIGN, SHAPES, matches, parse, phrases
from .write import annotate, clip_phrases, demo_clips, write_clip

__all__ = [
    "COLOURS",
    "FOREIGN",
    "GENERATOR_VERSION",
    "SHAPES",
    "Artist",
    "ClipSpec",
    "DrawnFrame",
    "Scene",
    "Thing",
    "annotate",
    "clip_phrases",
    "demo_clips",
    "draw_clip",
    "make_scene",
    "matches",
    "parse",
    "phrases",
    "write_clip",
]
