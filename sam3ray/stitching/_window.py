"""Processes one window of a long clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from sam3ray.engine.ending import Ending
from sam3ray.engine.lookahead import LENGTH_HORIZON
from sam3ray.engine.result import SessionResult
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.model import Model
from sam3ray.stitching._following import Following
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import Cut
from sam3ray.values.exemplars import named_exemplars, with_exemplar_phrases
from sam3ray.values.phrases import as_phrases
from sam3ray.values.prompts import ExemplarPrompt
from sam3ray.video import Frame


def segment_window(
    segmenter: Model,
    frames: Iterable[Frame],
    height: int,
    width: int,
    prompts: str | Sequence[str],
    cut: Cut,
    *,
    ending: Path | None = None,
    note: str = "",
    exemplars: Sequence[ExemplarPrompt] = (),
    progress: Callable[[], None] | None = None,
) -> Iterator[FrameAnnotations]:
    """Yields the rows of one window: those from position `cut.start` to at least `cut.until` - 1, and on until they
    have shown its objects again (`Following`), at most to `cut.reach` - 1.

    Object ids count from 1 in each window; `link` decides which objects are the same. The first window's rows are those
    of the whole clip up to its end. A later window begins like a clip: while nothing is tracked, every detection
    becomes an object. The `score` of an object below `new_det_thresh` is that of the detection that started it, until
    the first detection that would have started it in any case, and from then on that detection's. From this, `link`
    infers which objects the whole clip would have had.

    Args:
        frames: frames from `cut.start` on, in order, of one size; read up to `cut.end` - 1, and as far
            as it takes to make the last rows final.
        ending: file to write, with the memories of the window's objects at `cut.until` (`sam3ray.engine.ending`); it
            exists once the last frame has been yielded. None for the last window, which does not run on.
        note: text to store with the ending.
        exemplars: those of the whole clip, resolved, each with a phrase. Those on frames of other windows are ignored.
        progress: called after each processed frame.

    Returns:
        One value per frame, in order, `hotstart_delay` - 1 frames late.

    Raises:
        UserError: a phrase is empty, too long or given twice, or an exemplar has no phrase.
        ClipError: unreadable_video if the frames end before `cut.end`; empty_range if the frame of an exemplar is not
            among those read.
    """
    phrases, shown, problem = with_exemplar_phrases(as_phrases(prompts), named_exemplars(exemplars))
    alone = [each.name for each in shown if not each.phrase]
    if alone and not problem:
        problem = f"has the exemplar {alone[0]!r} without a phrase, so the clip must be processed in one piece"
    if problem:
        raise UserError(f"the clip {problem}")
    segmenter.check_phrases(phrases)
    return _rows(segmenter, frames, (height, width), phrases, shown, cut, ending, note, progress)


def _rows(
    segmenter: Model,
    frames: Iterable[Frame],
    size: tuple[int, int],
    phrases: Sequence[str],
    exemplars: Sequence[ExemplarPrompt],
    cut: Cut,
    ending: Path | None,
    note: str,
    progress: Callable[[], None] | None,
) -> Iterator[FrameAnnotations]:
    length = cut.end - cut.start
    following = Following(cut)
    taken: list[Ending] = []
    renamed: dict[int, int] = {}  # new id -> old id, after the ending was taken
    # Whatever the window's length, the clip is long.
    with segmenter.session(*size, length=max(length, LENGTH_HORIZON)) as session:

        def worked() -> None:
            if progress is not None:
                progress()
            if taken and session.relinker is not None:
                renamed.update(session.relinker.renamed)
            if ending is not None and session.clock.worked == cut.until - cut.start:
                taken.append(Ending.of(session, cut.start))

        session.engine.counted = session
        session.progress = worked
        session.opening = cut.index == 0
        for phrase in phrases:
            session.add(phrase)
        waiting = sorted(exemplars, key=lambda each: each.frame_index)
        given, named = 0, set[int]()

        def rows(results: Iterable[SessionResult]) -> Iterator[FrameAnnotations]:
            nonlocal given
            for result in results:
                if following.stop is None:
                    following.take(cut.start + given, result.annotations)
                    named.update(result.shown)
                    given += 1
                    yield result.annotations

        count = 0
        for frame in islice(frames, length + cut.reach - cut.until):
            while waiting and waiting[0].frame_index <= frame.index:
                shown = waiting.pop(0)
                if count or cut.index == 0 or shown.frame_index == frame.index:
                    session.add(shown)
            count += 1
            yield from rows(session.step(frame))
            if following.stop is not None and count >= length:
                break
        if count < length:
            raise ClipError(
                Reason.UNREADABLE_VIDEO,
                f"the video ends at frame {cut.start + count} of the clip; its index promises {cut.end} and more",
                f"frame {cut.start + count}",
            )
        if ending is None:
            for shown in waiting:
                session.add(shown)  # after the clip's last frame: an error, as in a clip that is not cut
        yield from rows(session.finish())
        if ending is not None:
            ids = {each: each for each in named - set(renamed.values())}
            for new, old in renamed.items():
                if old in named and old not in ids.values():
                    ids[new] = old
            taken[0].write(ending, ids, note)
