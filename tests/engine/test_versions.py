"""An untested transformers is refused at start-up."""

import re
from pathlib import Path

import pytest

from sam3ray.engine.versions import TESTED, check_transformers
from sam3ray.failures import JobStopped


def test_the_installed_release_is_tested():
    check_transformers()


@pytest.mark.parametrize("installed", ["5.22.0", "5.25.0", "5.2.3", "4.57.1", "6.0.0.dev0"])
def test_another_release_is_refused_and_the_error_says_which_work(installed):
    with pytest.raises(
        JobStopped, match=rf"transformers {re.escape(installed)} is installed.* works with 5\.23\.x, 5\.24\.x"
    ):
        check_transformers(installed)


def test_a_patch_release_is_accepted():
    check_transformers("5.23.7")


def test_the_requirement_names_the_same_range():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    major, minor = TESTED[-1].split(".")
    assert f'"transformers>={TESTED[0]},<{major}.{int(minor) + 1}"' in text
