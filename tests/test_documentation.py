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
