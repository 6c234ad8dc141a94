"""A damaged file of ours is described without pydantic's words."""

from typing import Literal

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from sam3ray.faults.damage import damage


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Entry:
    kind: Literal["a", "b"]
    rows: int

    @field_validator("rows")
    @classmethod
    def _positive(cls, rows: int) -> int:
        if rows < 1:
            raise ValueError(f"{rows} rows; allowed: at least 1")
        return rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"kind": "a", "ro', "it is not JSON, or not all of it"),
        ("{}", "it does not have the form of such a file"),
        ('[{"kind": "a"}]', "0.rows is missing"),
        ('[{"kind": "a", "rows": 1}, {"kind": "a", "rows": 1, "odd": 2}]', "1.odd does not belong there"),
        ('[{"kind": "c", "rows": 1}]', "0.kind has a value that is not allowed there"),
        ('[{"kind": "a", "rows": "many"}]', "0.rows has a value that is not allowed there"),
        ('[{"kind": "a", "rows": 0}]', "0.rows: 0 rows; allowed: at least 1"),
    ],
)
def test_the_place_and_the_problem_are_said(text, said):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[Entry]).validate_json(text)
    assert damage(caught.value) == said
