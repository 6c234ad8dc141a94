"""Who may import whom: the floors of docs/architecture.md hold, and the page shows them as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from importlinter import cli as importlinter

from tools import check_imports

ROOT = Path(__file__).parents[1]


def test_every_import_keeps_to_the_floors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    failed = importlinter.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not failed, capsys.readouterr().out


def test_no_private_name_crosses_and_no_import_hides_in_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    failed = check_imports.main()
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("from sam3ray.right._inner import name", "_inner is private to sam3ray.right"),
        ("from sam3ray.right import _name", "_name is private to sam3ray.right"),
        ("from sam3ray import right as _right", ""),
        ("def f():\n    from sam3ray.right import name", "imports sam3ray.right inside a function"),
        ("def f():\n    from sam3ray.heavy import name", ""),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sam3ray.right import name", ""),
    ],
)
def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    modules = {"left/__init__": line, "right/__init__": "", "right/_inner": "", "heavy": "import torch"}
    for name, text in {"__init__": "", **modules}.items():
        path = tmp_path / "sam3ray" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert check_imports.main(tmp_path) == bool(told)
    assert told in capsys.readouterr().out


def test_the_page_shows_the_floors_in_their_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [{name.strip() for name in line.split("|")} for line in contracts["contracts"][0]["layers"]]
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("```\n")[2].partition("```")[0].splitlines()
    shown = [set(re.findall(r"\w+", line[:48])) for line in drawn if line.startswith("  ")]
    assert shown == [layer for layer in layers if layer != {"__main__"}]
