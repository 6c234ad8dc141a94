"""Turns a YAML file or a dict, with `--set` overrides, into a checked `JobConfig`, or reports every problem at once."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sam3ray.config._fields import Key, allowed, field_at, known_keys
from sam3ray.config._models import JobConfig
from sam3ray.config._paths import beside_file
from sam3ray.config._yaml import MAX_BYTES, MAX_DEPTH, Document, Path, parse_document, parse_value
from sam3ray.failures import UserError
from sam3ray.files import read_text, resolve
from sam3ray.guard.addresses import folder_form
from sam3ray.guard.secrets import has_password, is_secret_key, without_password
from sam3ray.values.phrases import comma_warning

_LOG = logging.getLogger(__name__)
ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | JobConfig

SET = "--set"


def load_config(source: ConfigSource, overrides: Sequence[str] = ()) -> JobConfig:
    """Reads and checks a configuration.

    Args:
        source: a YAML file (a path or any address that fsspec knows), a dict with the same keys, or a `JobConfig`.
        overrides: `key.subkey=value` each, with the value in YAML; they override the source.

    Relative paths in a file are resolved beside it (see `_paths`), all others in the current directory.

    Raises:
        UserError: with one sentence for each problem, which names the key, the value, what is allowed, the nearest
            known key, and the line of the file.
    """
    if isinstance(overrides, str):
        overrides = (overrides,)
    if isinstance(source, JobConfig):
        if not overrides:
            return resolve_paths(source)
        source = source.model_dump(mode="json", exclude_unset=True)
    if isinstance(source, Mapping):
        return _checked(Document(data=_plain(source)), "config", {}, overrides, None)
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"config is {source!r:.80}; allowed: the path of a YAML file, a dict with the same keys, or a JobConfig"
        )
    source = os.fspath(source)
    name = without_password(source)
    place = resolve(source)
    return _load(read_text(place, {}, MAX_BYTES, what="config"), name, overrides, place)


def config_from_text(text: str, name: str, overrides: Sequence[str] = ()) -> JobConfig:
    """Like `load_config`, but from a file's text, which messages call `name`.

    Relative paths are resolved in the current directory.
    """
    return _load(text, name, overrides, None)


def _load(text: str, name: str, overrides: Sequence[str], source: str | None) -> JobConfig:
    document = parse_document(text, name)
    origin: dict[Path, str] = {path: f"{name} line {line}" for path, line in document.lines.items()}
    return _checked(document, name, origin, overrides, source)


def _plain(value: Any) -> Any:
    """A copy whose paths are text, so that `output=Path("labels")` works."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else value
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _checked(
    document: Document, name: str, origin: dict[Path, str], overrides: Sequence[str], source: str | None
) -> JobConfig:
    problems = list(document.problems)
    problems += _apply_overrides(document, origin, overrides)
    found, config = _validate(document.data, origin, name)
    if problems and not document.data:
        raise UserError(problems)  # nothing could be read, so `manifest is missing` would only distract
    if problems + found or config is None:
        raise UserError(problems + found)
    if warning := comma_warning(document.data.get("prompts")):
        _LOG.warning("%sprompts: %s", _place(["prompts"], origin, name), warning)
    if source is not None:
        config = beside_file(config, source, lambda key: _line_of(tuple(key.split(".")), origin))
    return resolve_paths(config)


def _line_of(path: Path, origin: Mapping[Path, str]) -> str | None:
    """The line of the file with the key; None if the file does not have it."""
    while path and path not in origin:
        path = path[:-1]
    place = origin.get(path)
    return None if place is None or place == SET else place


def resolve_paths(config: JobConfig) -> JobConfig:
    """Makes paths absolute, so that they mean the same files to workers in other directories and on other nodes."""
    update: dict[str, Any] = {"manifest": resolve(config.manifest), "output": folder_form(config.output)}
    checkpoint = os.path.expanduser(config.model.checkpoint)
    if "://" in checkpoint:
        update["model"] = config.model.model_copy(update={"checkpoint": resolve(checkpoint)})
    elif os.path.isdir(checkpoint) and config.model.checkpoint != "embedded":
        update["model"] = config.model.model_copy(update={"checkpoint": os.path.abspath(checkpoint)})
    if config.visual_prompts is not None:
        update["visual_prompts"] = resolve(config.visual_prompts)
    if isinstance(config.exemplars, str):
        update["exemplars"] = resolve(config.exemplars)
    if config.video.cache_dir is not None:
        update["video"] = config.video.model_copy(update={"cache_dir": resolve(config.video.cache_dir)})
    return config.model_copy(update=update)


def _apply_overrides(document: Document, origin: dict[Path, str], overrides: Sequence[str]) -> list[str]:
    problems: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path) or len(path) > MAX_DEPTH or not key.isprintable():
            problems.append(
                f"--set {override!r:.200}: allowed: key=value or key.subkey=value, as in --set model.dtype=auto"
            )
            continue
        place = SET
        value, wrong = parse_value(text, f"--set {key.strip()}")
        if wrong:
            problems += wrong
            continue
        section: dict[str, Any] = document.data
        for depth, part in enumerate(path[:-1]):
            if not isinstance(section.get(part), dict):
                section[part] = {}
                origin[path[: depth + 1]] = place
            section = section[part]
        section[path[-1]] = value
        for known in [known for known in origin if known[: len(path)] == path]:
            del origin[known]
        origin[path] = place
    return problems


def _validate(data: Mapping[str, Any], origin: Mapping[Path, str], name: str) -> tuple[list[str], JobConfig | None]:
    try:
        return [], JobConfig.model_validate(dict(data))
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems, wrong = [], set()
    for detail in details:
        path = tuple(str(part) for part in detail["loc"])
        wrong.add(path)
        problems += _sentences(detail, path, origin, name)
    # The rest is checked again without the wrong values, to also find keys that contradict each other.
    wrong = {path for path in wrong if path}
    pruned = _without(data, wrong)
    for key in ("manifest", "output"):
        pruned.setdefault(key, f"({key})")
    try:
        JobConfig.model_validate(pruned)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            for keys, sentence in detail.get("ctx", {}).get("conflicts", ()):
                touched = {tuple(key.split(".")) for key in keys}
                if not any(path[: len(bad)] == bad or bad[: len(path)] == path for path in touched for bad in wrong):
                    problems.append(_place(keys, origin, name) + sentence)
    return list(dict.fromkeys(problems)), None


def _without(data: Mapping[str, Any], paths: set[Path]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in data.items():
        if (key,) in paths:
            continue
        inner = {path[1:] for path in paths if path[0] == key and len(path) > 1}
        kept[key] = _without(value, inner) if isinstance(value, Mapping) and inner else value
        if inner and isinstance(value, list):
            del kept[key]
    return kept


def _place(keys: Sequence[str], origin: Mapping[Path, str], name: str) -> str:
    """The place of the first of these keys that was given, with a colon; else the file's name."""
    for key in reversed(keys):
        path = tuple(key.split("."))
        while path:
            if path in origin:
                return f"{origin[path]}: "
            path = path[:-1]
    return f"{name}: "


def _sentences(detail: ErrorDetails, path: Path, origin: Mapping[Path, str], name: str) -> list[str]:
    if conflicts := detail.get("ctx", {}).get("conflicts"):
        return [_place(keys, origin, name) + sentence for keys, sentence in conflicts]
    key = ".".join(path)
    place = _place([key], origin, name)
    if detail["type"] == "missing":
        return [f"{name}: {key} is missing; it needs {allowed(field_at(path, JobConfig))}{_example(path)}"]
    if detail["type"] == "extra_forbidden":
        value = "" if is_secret_key(path[-1]) else f" (value {_shown(detail['input'])})"
        return [f"{place}{key} is not a known key{value}; {_nearest(path)}"]
    if detail["type"] == "items":
        return [f"{place}{key}{detail['ctx']['problem']}"]
    if detail["type"] == "phrases":
        return [f"{place}{key} {detail['ctx']['problem']}"]
    return [f"{place}{key} is {_shown(detail['input'])}; allowed: {allowed(field_at(path, JobConfig))}"]


def _example(path: Path) -> str:
    examples: dict[Path, str] = {
        ("manifest",): ", as in `manifest: clips.csv`",
        ("output",): ", as in `output: labels/run-1`",
    }
    return examples.get(path, "")


def _nearest(path: Path) -> str:
    """The key that was probably meant: of the same section, else of the same name elsewhere."""
    parent = path[:-1]
    keys = known_keys(JobConfig)
    siblings = [known[-1] for known in keys if known[:-1] == parent]
    if close := difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.6):
        return f"the nearest known key is {'.'.join((*parent, close[0]))}"
    names: dict[str, Key] = {known[-1]: known for known in keys}
    if close := difflib.get_close_matches(path[-1], list(names), n=1, cutoff=0.7):
        return f"the nearest known key is {'.'.join(names[close[0]])}"
    closest = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.0)
    nearest = f"the nearest known key is {'.'.join((*parent, closest[0]))}; " if closest else ""
    return f"{nearest}known keys here: {', '.join(siblings)}"


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "a section"
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    if has_password(text):
        text = without_password(text)
    return text if len(text) <= 80 else f"{text[:77]}..."
