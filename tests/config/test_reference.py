"""The documentation of the configuration is complete and true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sam3ray.config import JobConfig, config_from_text
from sam3ray.config._fields import known_keys, walk
from sam3ray.config._reference import with_tables

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_lists_every_key_as_it_is() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert with_tables(page) == page, "run: python -m sam3ray.config._reference docs/configuration.md"
    assert all(f"`{'.'.join(key)}`" in page for key in known_keys(JobConfig))


def test_every_key_is_explained() -> None:
    assert [".".join(key) for key, info in walk(JobConfig) if not info.description] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_configurations_in_the_documentation_are_right(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        data = yaml.safe_load(block)
        if isinstance(data, dict) and "manifest" in data:
            config_from_text(block, page.name)
