"""Checks a job against a checkpoint's small files. Reads no weights, and imports torch only if necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.checkpoint import small_files
from sam3ray.engine.image_size import resize
from sam3ray.engine.rules import Rules

MAX_TOKENS = 32  # limit of the text encoder, including start and end

# Thresholds that may contradict the checkpoint's value of another one.
_LINKED = (
    "hotstart_delay",
    "hotstart_unmatch_thresh",
    "hotstart_dup_thresh",
    "max_trk_keep_alive",
    "min_trk_keep_alive",
    "memory_frames",
)


def long_phrases(
    config: ModelConfig,
    phrases: Iterable[str],
    *,
    patient: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """The phrases that are too long for the text encoder, with their number of tokens, by the checkpoint's tokenizer.

    Args:
        config: its `revision` is the commit to use.
        patient, storage_options: see `checkpoint_identity`.

    Raises:
        JobStopped: the tokenizer cannot be fetched.
    """
    # No phrase has more tokens than letters, plus start and end.
    doubtful = [phrase for phrase in phrases if not phrase.isascii() or len(phrase) > MAX_TOKENS - 2]
    if not doubtful:
        return {}
    count = _counter(small_files(config, patient=patient, storage_options=storage_options))
    counted = {phrase: count(phrase) for phrase in doubtful}
    return {phrase: tokens for phrase, tokens in counted.items() if tokens > MAX_TOKENS}


def phrase_problem(phrase: str, tokens: int) -> str:
    return (
        f"the phrase {phrase!r} has {tokens} tokens; the model takes at most {MAX_TOKENS}, start and end included: "
        "use a shorter phrase"
    )


def threshold_problem(
    config: ModelConfig,
    tracking: TrackingConfig,
    *,
    patient: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> str | None:
    """How the job's thresholds contradict each other or the checkpoint's, in words; None if they do not.

    Raises:
        JobStopped: the checkpoint's configuration cannot be fetched.
    """
    if config.image_size is None and all(getattr(tracking, name) is None for name in _LINKED):
        return None
    folder = small_files(config, patient=patient, storage_options=storage_options)
    from transformers import Sam3VideoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    model = Sam3VideoConfig.from_pretrained(folder)
    try:
        if config.image_size is not None:
            resize(model, config.image_size)
        Rules.of(model, tracking)
    except ValueError as error:
        return str(error)
    return None


def _counter(folder: Path) -> Callable[[str], int]:
    """Counts tokens as the engine's tokenizer does, without torch if possible."""
    file = folder / "tokenizer.json"
    if file.exists():
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(file))
        fast.no_truncation()
        fast.no_padding()
        return lambda phrase: len(fast.encode(phrase).ids)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda phrase: len(slow(phrase)["input_ids"])
