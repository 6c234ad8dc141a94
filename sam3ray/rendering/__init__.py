"""Draws masks, boxes and labels on pictures and videos."""

from sam3ray.rendering._clip import render_clip
from sam3ray.rendering._drawing import draw
from sam3ray.rendering._overlay import DrawnObject, draw_objects

__all__ = ["DrawnObject", "draw", "draw_objects", "render_clip"]
