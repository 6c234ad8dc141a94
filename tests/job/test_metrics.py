from __future__ import annotations

import pytest

from sam3ray.job.metrics import label


@pytest.mark.parametrize("name", ["run-1", "étiquettes", "標籤" * 200, "", "a\nb", "\udcff", "100%", '"quoted" \\ 😀'])
def test_a_label_is_what_ray_takes(name: str) -> None:
    text = label(name)
    assert text
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 200
    assert label(text.replace("%", "x")) == text.replace("%", "x")  # names of old stay as they are


def test_different_names_have_different_labels() -> None:
    assert len({label(name) for name in ("é", "è", "%C3%A9", "e")}) == 4
