"""Damaged and hostile inputs against every reader of the package. See `python -m tools.fuzz --help`."""
