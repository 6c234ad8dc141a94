"""Files that rename labels."""

from __future__ import annotations

import json
from pathlib import Path

from sam3ray.failures import UserError
from sam3ray.files import read_text


def read_names(path: str) -> dict[str, str]:
    """A file of labels and their new names: YAML or JSON, `person: pedestrian`.

    Raises:
        UserError: it is not a mapping of texts.
    """
    text = read_text(path, {}, 1_000_000, what="label file")
    if Path(path).suffix == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"label file {path} is not JSON") from None
    else:
        import yaml

        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"label file {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for pair in value.items() for v in pair):
        raise UserError(f"label file {path} must map labels to names, one per line, as in `person: pedestrian`")
    return value
