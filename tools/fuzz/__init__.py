"""Tests every reader of the package with damaged and hostile inputs. See `python -m tools.fuzz --help`."""
