"""The examples of docs/session.md run as they stand, one after the other."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "session.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, loaded_once: None) -> dict[str, dict[str, Any]]:
    """What the examples have defined by the end of each section."""
    page, section = PAGE.read_text(encoding="utf-8"), ""
    defined: dict[str, Any] = {}
    after: dict[str, dict[str, Any]] = {}
    with chdir(tmp_path_factory.mktemp("session")):
        for heading, code in re.findall(r"^## (.+?)$|^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
            if heading:
                section = heading
                continue
            exec(compile(code, f"session.md: {section}", "exec"), defined)  # noqa: S102
            after[section] = dict(defined)
    return after


def test_prompts_come_and_go(names):
    last = names["Prompts come and go"]
    assert last["clicked"] == 20
    (result,) = [last["result"]]
    assert result.shown
    assert {each.prompt for each in result.annotations.objects} == {"red circle"}


def test_what_is_believed_while_it_lives_is_what_lasts(names):
    last = names["Policies"]
    assert any(last["believed"].values())
    assert all(last["believed"][frame] <= last["seen"][frame] for frame in last["seen"])


def test_both_ways_reach_every_frame(names):
    found = names["Policies"]["found"]
    assert sorted(found) == list(range(20))
    assert all(ids == (1,) for ids in found.values())


def test_pixels_and_a_session_that_goes_on_later(names):
    assert names["Masks without run lengths"]["result"].pixels.shape[1:] == (180, 320)
    last = names["Save and continue later"]
    indices = [each.frame_index for each in last["before"] + last["after"]]
    assert indices == list(range(20))
