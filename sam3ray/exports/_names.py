"""Reads files that rename labels."""

from __future__ import annotations

from pathlib import Path

import yaml

from sam3ray.failures import UserError
from sam3ray.files import read_text
from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.yamltext import joined, line_of, why_not_yaml


def read_names(path: str) -> dict[str, str]:
    """Reads a file of labels and their new names: YAML or JSON, as in `person: pedestrian`.

    Raises:
        UserError: it is not a mapping of texts.
    """
    text = read_text(path, {}, 1_000_000, what="label file")
    if Path(path).suffix == ".json":
        try:
            value = parse_json(text)
        except ValueError as error:
            raise UserError(f"label file {path} is not JSON: {error}") from None
    else:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            place = f"{path} line {line}" if (line := line_of(error)) else path
            raise UserError(f"label file {place} is not YAML: {why_not_yaml(error)}") from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for pair in value.items() for v in pair):
        raise UserError(f"label file {path} must map labels to names, one per line, as in `person: pedestrian`")
    try:
        return {joined(label): joined(name) for label, name in value.items()}
    except UnicodeDecodeError:
        raise UserError(f"label file {path} has half of a surrogate pair; write the character itself") from None
