"""Turns rows into clips. Checks every value, and reports all problems at once."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

import pyarrow as pa

from sam3ray.config import JobConfig
from sam3ray.failures import UserError
from sam3ray.guard.addresses import AddressError, one_form
from sam3ray.guard.protocols import protocol_problem
from sam3ray.guard.redact import redact
from sam3ray.guard.secrets import has_password
from sam3ray.manifest._rows import Problems, Rows, shown
from sam3ray.values.clip import Clip, Manifest
from sam3ray.values.clip_ids import ALLOWED, derive_clip_id, is_clip_id
from sam3ray.values.exemplars import parse_exemplars, with_exemplar_phrases
from sam3ray.values.phrases import comma_warning, phrases_problem, split_phrases
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompts import ExemplarPrompt, MaskPrompt, VisualPrompt

_LOG = logging.getLogger(__name__)
MAX_URI_CHARS = 4096
MAX_SECONDS = 1e9
_SIMILAR = 1_000  # ids with which an unknown one is compared, because finding similar text is slow
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # Python's stand-ins for bytes of a file name that are not UTF-8
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Most addresses in a large manifest look like this; all others take a slower path.
_PLAIN_URI = re.compile(r"(?:(?:s3|gs|az|abfs|https)://[A-Za-z0-9]|/)[A-Za-z0-9_/=+-][A-Za-z0-9_./=+-]{0,1000}")


def check_rows(
    rows: Rows,
    config: JobConfig,
    joined: Mapping[str, tuple[VisualPrompt, ...]] | None = None,
    exemplars: Mapping[str, tuple[ExemplarPrompt, ...]] | None = None,
) -> Manifest:
    """The clips of these rows.

    Args:
        joined, exemplars: visual prompts and exemplars from separate files, by clip id.

    Raises:
        UserError: one sentence for each bad value, with row, line, column, value and what is allowed.
    """
    problems = rows.problems
    if rows.count == 0:
        problems.raise_if_any()
        raise UserError(f"{rows.name} has no rows; allowed: at least one clip")
    uris = _uris(rows, config.video.protocols, problems)
    starts = _numbers(rows, "start_s", problems, minimum=0, inclusive=True)
    ends = _numbers(rows, "end_s", problems, minimum=0, inclusive=False)
    rates = _numbers(rows, "fps", problems, minimum=0, inclusive=False, maximum=1000)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start is not None and end is not None and start >= end:
            problems.add(f"{rows.place(i)}: end_s is {end:g}, not after start_s, which is {start:g}")
    ids = _ids(rows, uris, starts, ends, problems)
    visual, faulty = _visual_prompts(rows, ids, joined, problems)
    _check_masks(rows, visual, config.video.protocols, problems)
    shown, asks = _exemplars(rows, ids, config, exemplars, problems)
    asks |= faulty | {i for i, given in enumerate(visual) if given}
    prompts = _prompts(rows, config, asks, {i for i, given in enumerate(shown) if given}, problems)
    _join_phrases(rows, prompts, shown, problems)
    problems.raise_if_any()
    columns: list[Iterable[Any]] = [ids, uris, prompts, starts, ends, rates, visual]
    if rows.carried is not None:
        columns.append(_as_python(rows.carried, rows.name))
    clips: Iterable[Clip] = map(Clip, *columns)
    if any(shown):
        clips = (replace(clip, exemplars=given) for clip, given in zip(clips, shown, strict=True))
    if rows.sources is not None:
        clips = (replace(clip, source=source) for clip, source in zip(clips, rows.sources, strict=True))
    return Manifest(clips, rows.carried)


def _as_python(table: pa.Table, name: str) -> list[dict[str, Any]]:
    """The carried columns, row by row. Times in nanoseconds become the integers that Arrow stores."""
    names, values = table.column_names, []
    for column_name, column in zip(names, table.columns, strict=True):
        if pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns":
            column = column.cast(pa.int64())
        try:
            values.append(column.to_pylist())
        except (pa.ArrowException, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{name}: the values of column {column_name!r} cannot be carried through: {reason}"
            ) from error
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _uris(rows: Rows, more_protocols: Sequence[str], problems: Problems) -> list[str]:
    """Absolute addresses; empty where the value is bad."""
    values = rows.columns["uri"]
    for i, value in enumerate(values):
        if isinstance(value, str) and _PLAIN_URI.fullmatch(value):
            continue
        problem = None
        if not isinstance(value, str) or not (value := value.strip()):
            problem = "an address or a path of a video"
        elif _NOT_UTF8.search(value):
            problem = "names in UTF-8; rename this file"
            value = next(part for part in value.split("/") if _NOT_UTF8.search(part))  # the full address may be long
        elif len(value) > MAX_URI_CHARS or _CONTROL.search(value):
            problem = f"at most {MAX_URI_CHARS} characters, no control characters"
        elif has_password(value):
            problem = "addresses without user and password; set them in the environment"
        else:
            wrong = protocol_problem(value, more_protocols)
            try:
                one_form(value)
            except AddressError as error:
                wrong = wrong or str(error)
            if wrong:
                problems.add(f"{rows.place(i)}: uri {redact(shown(value))} {wrong}")
                value = ""
        if problem:
            problems.add(f"{rows.place(i)}: uri is {redact(shown(value))}; allowed: {problem}")
            value = ""
        values[i] = value
    return [value if not value or _is_absolute(value) else one_form(value) for value in values]


def _is_absolute(uri: str) -> bool:
    return uri[0] == "/" and "/." not in uri and "//" not in uri


def _numbers(
    rows: Rows, column: str, problems: Problems, *, minimum: float, inclusive: bool, maximum: float = MAX_SECONDS
) -> list[float | None]:
    values = rows.columns.get(column)
    if values is None:
        return [None] * rows.count
    numbers: list[float | None] = []
    for i, value in enumerate(values):
        number = _number(value)
        if number is None or (not math.isnan(number) and _within(number, minimum, inclusive, maximum)):
            numbers.append(number)
            continue
        numbers.append(None)
        kind = "frames per second" if column == "fps" else "seconds"
        low = f"from {minimum:g}" if inclusive else f"above {minimum:g}"
        problems.add(
            f"{rows.place(i)}: {column} is {shown(value)}; allowed: {kind}, a number {low} to {maximum:g}, or nothing"
        )
    return numbers


def _within(number: float, minimum: float, inclusive: bool, maximum: float) -> bool:
    return (number >= minimum if inclusive else number > minimum) and number <= maximum


def _number(value: Any) -> float | None:
    """The number; None if there is none, NaN if the value is something else."""
    if value is None or type(value) is float:
        return value
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except (OverflowError, ValueError):
            return math.nan
    return math.nan


def _ids(
    rows: Rows, uris: list[str], starts: list[float | None], ends: list[float | None], problems: Problems
) -> list[str]:
    """Given or derived ids. They must differ in more than case, since some disks ignore case in file names."""
    given = rows.columns.get("clip_id") or [None] * rows.count
    written = rows.identities or rows.columns["uri"]
    ids: list[str] = []
    first: dict[str, int] = {}
    for i, value in enumerate(given):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # JSON and Parquet store the ids of numbered clips as numbers
        if value is None or (isinstance(value, str) and not value.strip()):
            clip_id = derive_clip_id(written[i], starts[i], ends[i]) if uris[i] else ""
            origin = ", derived from uri and range (give each row its own clip_id to keep both)"
        elif isinstance(value, str) and is_clip_id(value.strip()):
            clip_id, origin = value.strip(), ""
        else:
            problems.add(f"{rows.place(i)}: clip_id is {shown(value)}; allowed: {ALLOWED}")
            ids.append("")
            continue
        ids.append(clip_id)
        if not clip_id:
            continue
        earlier = first.setdefault(clip_id.lower(), i)
        if earlier != i:
            other = ids[earlier]
            same = (
                f"is also the id of row {rows.number(earlier)}"
                if other == clip_id
                else (
                    f"differs from row {rows.number(earlier)}'s {other!r} only in case, and some file systems "
                    "ignore case"
                )
            )
            problems.add(f"{rows.place(i)}: clip_id {clip_id!r} {same}{origin}; allowed: each id once")
    return ids


def _prompts(
    rows: Rows, config: JobConfig, asks: set[int], shown: set[int], problems: Problems
) -> list[tuple[str, ...]]:
    """The phrases of each row, or the configuration's if the row has no prompts of any kind (`asks`). Every row needs
    some prompt, even if only the configuration's exemplars (`shown`).
    """
    values = rows.columns.get("prompts") or [None] * rows.count
    known: dict[Any, tuple[tuple[str, ...], str | None]] = {}  # most rows of a manifest have the same prompts
    result: list[tuple[str, ...]] = []
    bare: list[int] = []
    commas: dict[int, str] = {}
    for i, value in enumerate(values):
        if not commas and (warning := comma_warning(value)):
            commas[i] = warning
        key = tuple(value) if type(value) is list else value
        try:
            phrases, problem = known[key]
        except KeyError:
            phrases, problem = known[key] = _phrases(value)
        except TypeError:  # a list of lists, a mapping: not hashable
            phrases, problem = _phrases(value)
        if problem:
            problems.add(f"{rows.place(i)}: prompts {problem}")
        elif not phrases and i not in asks:
            phrases = config.prompts
            if not phrases and i not in shown:
                bare.append(i)
        result.append(phrases)
    for i, warning in commas.items():
        _LOG.warning("%s: prompts: %s", rows.place(i), warning)
    if len(bare) == rows.count:
        problems.add(
            f"{rows.name}: no clip has prompts, and neither does the configuration; add `prompts: [person]` to it"
        )
    else:
        for i in bare:
            problems.add(
                f"{rows.place(i)}: prompts is empty, and so is the configuration's; allowed: at least one phrase"
            )
    return result


def _phrases(value: Any) -> tuple[tuple[str, ...], str | None]:
    if value is None:
        return (), None
    if isinstance(value, str):
        phrases = split_phrases(value)
    elif isinstance(value, list | tuple) and all(isinstance(phrase, str) for phrase in value):
        phrases = tuple(phrase.strip() for phrase in value)
    else:
        return (), f"is {shown(value)}; allowed: a list of phrases, or one text with `;` between them"
    return phrases, phrases_problem(phrases)


def _visual_prompts(
    rows: Rows, ids: list[str], joined: Mapping[str, tuple[VisualPrompt, ...]] | None, problems: Problems
) -> tuple[list[tuple[VisualPrompt, ...]], set[int]]:
    """Each row's visual prompts, and which rows have wrong ones: these still count as rows with prompts."""
    return _listed(rows, ids, "visual_prompts", parse_visual_prompts, joined, problems)


def _exemplars(
    rows: Rows,
    ids: list[str],
    config: JobConfig,
    joined: Mapping[str, tuple[ExemplarPrompt, ...]] | None,
    problems: Problems,
) -> tuple[list[tuple[ExemplarPrompt, ...]], set[int]]:
    """Each row's exemplars, and which rows have their own. The others get the configuration's."""
    found, faulty = _listed(rows, ids, "exemplars", parse_exemplars, joined, problems)
    own = faulty | {i for i, given in enumerate(found) if given}
    if config.exemplars and not isinstance(config.exemplars, str):
        usual, _ = parse_exemplars(list(config.exemplars))
        found = [given if i in own else usual for i, given in enumerate(found)]
    return found, own


def _join_phrases(
    rows: Rows, prompts: list[tuple[str, ...]], shown: list[tuple[ExemplarPrompt, ...]], problems: Problems
) -> None:
    """Adds the exemplars' phrases to their clips' phrases, in place."""
    for i, given in enumerate(shown):
        if given:
            prompts[i], shown[i], problem = with_exemplar_phrases(prompts[i], given)
            if problem:
                problems.add(f"{rows.place(i)}: prompts and exemplars together: it {problem}")


_Prompt = TypeVar("_Prompt", VisualPrompt, ExemplarPrompt)


def _listed(
    rows: Rows,
    ids: list[str],
    column: str,
    parse: Callable[[Any], tuple[tuple[_Prompt, ...], list[str]]],
    joined: Mapping[str, tuple[_Prompt, ...]] | None,
    problems: Problems,
) -> tuple[list[tuple[_Prompt, ...]], set[int]]:
    """The values of a column with lists of prompts, and the rows in which they are wrong."""
    values = rows.columns.get(column) or [None] * rows.count
    result: list[tuple[_Prompt, ...]] = []
    faulty: set[int] = set()
    for i, value in enumerate(values):
        prompts: tuple[_Prompt, ...] = ()
        if value is not None:
            prompts, wrong = parse(value)
            if wrong:
                faulty.add(i)
            for sentence in wrong:
                problems.add(f"{rows.place(i)}: {column}{sentence}")
        if joined and ids[i] in joined:
            if prompts:
                problems.add(
                    f"{rows.place(i)}: {column} of {ids[i]!r} are in both the manifest and the visual_prompts file"
                )
            prompts = joined[ids[i]]
        result.append(prompts)
    for clip_id in sorted(set(joined or ()) - set(ids)):
        close = difflib.get_close_matches(clip_id, ids[:_SIMILAR], n=1, cutoff=0.0)
        nearest = f"; the nearest of its ids is {close[0]!r}" if close else ""
        what = column.replace("_", " ")
        problems.add(f"{what} are given for clip {clip_id!r}, which is not in {rows.name}{nearest}")
    return result, faulty


def _check_masks(
    rows: Rows, visual: Sequence[tuple[VisualPrompt, ...]], more_protocols: Sequence[str], problems: Problems
) -> None:
    for i, prompts in enumerate(visual):
        for prompt in prompts:
            png = prompt.png if isinstance(prompt, MaskPrompt) else ""
            if png and (problem := protocol_problem(png, more_protocols)):
                problems.add(f"{rows.place(i)}: visual_prompts: the mask {redact(shown(png))} {problem}")
