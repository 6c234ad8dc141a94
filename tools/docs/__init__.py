"""Draws pictures for the documentation from real runs."""
