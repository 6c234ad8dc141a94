"""The documentation as a site: it builds without a warning, and a page asks for nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sam3ray
from sam3ray.config import JobConfig
from sam3ray.config._fields import known_keys

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(CONFIG), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_pages_fetch_nothing(site: Path) -> None:
    pages = list(site.glob("**/*.html"))
    assert len(pages) > 15
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*//"
    )
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_every_public_function_is_on_the_api_page(site: Path) -> None:
    page = (site / "python.html").read_text(encoding="utf-8")
    missing = [name for name in sam3ray.__all__ if name[0].islower() and f'id="sam3ray.{name}"' not in page]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"]
    named = set(re.findall(r"[\w-]+\.md", str(nav)))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_files_and_keys_that_pages_name_exist() -> None:
    """Paths, modules after `python -m`, tests in tables, and `section.key` of the configuration."""
    pages = [page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    keys = {".".join(key) for key in known_keys(JobConfig)}
    sections = "|".join(sorted({key.partition(".")[0] for key in keys if "." in key}))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    defined = set(re.findall(r"def (test_\w+)", tests))
    wrong = []
    for text in pages:
        paths = re.findall(
            r"\b(?:tests|docs|benchmarks|tools|configs|sam3ray|jobs)/[\w./-]+\.(?:py|md|ya?ml|sh)\b", text
        )
        paths += [name.replace(".", "/") for name in re.findall(r"python -m ((?:tests|benchmarks|tools)[\w.]+)", text)]
        wrong += [path for path in paths if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()]
        wrong += [name for name in re.findall(r"`(test_\w+)`", text) if name not in defined]
        named = re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:[:=][^`]*)?`", text.replace("`model.safetensors`", ""))
        wrong += [key for key in named if not any(f"{known}.".startswith(f"{key}.") for known in keys)]
    assert wrong == []
