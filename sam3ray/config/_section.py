"""What the sections of the configuration have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sam3ray.config._fields import allowed, field_at, section_at
from sam3ray.failures import UserError

_Metaclass: Any = type(BaseModel)  # pydantic has no public name for it


class _Kind(_Metaclass):
    """Says in our words what is wrong with a section that Python code makes. A file's is validated otherwise."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise UserError(_sentences(error, cls)) from None


_kind: Any = _Kind


class Section(BaseModel, metaclass=_kind):
    """A section. Making one with a wrong key or value raises UserError, with all that is wrong."""

    # strict: `8` is not text and `true` is not a number. Otherwise, slips in the file would go unnoticed.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, data: Any) -> Any:
        """In YAML, `storage:` with only comments below it is null."""
        if not isinstance(data, dict) or None not in data.values():
            return data
        sections = {n for n, f in cls.model_fields.items() if f.default_factory or isinstance(f.default, Section)}
        return {key: value for key, value in data.items() if value is not None or key not in sections}


def _sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    found = []
    for detail in error.errors(include_url=False):
        path = tuple(map(str, detail["loc"]))
        key, about = ".".join(path), detail.get("ctx", {})
        if "conflicts" in about:
            found += [sentence for _, sentence in about["conflicts"]]
        elif detail["type"] == "extra_forbidden":
            section = section_at(path[:-1], model)
            found.append(
                f"{key} is not a key of {section.__name__}; allowed: {', '.join(sorted(section.model_fields))}"
            )
        elif detail["type"] == "missing":
            found.append(f"{key} is missing; it needs {allowed(field_at(path, model))}")
        elif detail["type"] == "items":
            found.append(f"{key}{about['problem']}")
        elif detail["type"] == "phrases":
            found.append(f"{key} {about['problem']}")
        else:
            found.append(f"{key} is {detail['input']!r:.80}; allowed: {allowed(field_at(path, model))}")
    return found
