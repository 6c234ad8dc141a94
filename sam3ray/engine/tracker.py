"""The tracker: follows many objects from frame to frame in batches, in bounded memory.

It runs the submodules of transformers' `Sam3TrackerVideoModel` (here `Sam3VideoModel.tracker_model`)
and owns what happens between them. The text engine and the visual engine both drive it:

    tracked = tracker.track(features, t, memories)              # masks and scores of frame t
    tracker.encode_memory(features, t, memories, masks, ...)    # what later frames will remember of t
    tracker.prune(t, memories)                                  # what no later frame can read

An object enters by `add_masks` or by clicks (`set_clicks`, `encode_prompts`). Each object has a past
of its own: no call changes what another object remembers. One `Tracker` serves one clip.

Where Meta's code (sam3_tracker_base.py, sam3_tracking_predictor.py at 99d02f2) and transformers'
(modeling_sam3_tracker_video.py of 5.23) differ, `rules` decides: `memory` says what a frame reads of the past,
the methods say the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import Sam3VideoModel

from sam3ray.engine.capture import kept
from sam3ray.engine.mask_head import NO_OBJECT, HeadOutput, resize
from sam3ray.engine.memory import (
    NO_ROW,
    Bank,
    FrameEntry,
    ObjectMemory,
    ReadRules,
    Reads,
    RuleSet,
    SavedRows,
    group_by_length,
)
from sam3ray.engine.tracker_parts import TrackerParts
from sam3ray.engine.tracker_values import (
    Clicks,
    Prompted,
    TrackedMasks,
    in_order,
    non_overlapping_logits,
    non_overlapping_masks,
)
from sam3ray.engine.transfer import to_device, to_host
from sam3ray.engine.vision import FrameFeatures

MASK_PROMPT_SCORE = 10.0  # score logit of an object given as a mask; the negative of it where the mask is empty
PASSING_SCORE = 0.01  # the published rules forget frames whose score is not above this
MAX_POINTS = 16  # the published rules give the model at most so many clicks per object and frame
_DEVICE_PIXELS = 2**27  # mask pixels of the source's size held at once, in float32
EARLIER_LOGIT_LIMIT = 32.0  # earlier logits are clamped to +- this before they are given with new clicks


class Tracker:
    """Tracks the objects of one clip.

    Args:
        rules: "published" follows Meta's code, "transformers" follows transformers'.
        object_batch: objects per call of a module; bounds the peak memory of a frame.
        num_frames: length of the clip; only lengths below 16 make a difference, None is "at least 16".
        offload_state: keep the objects' memories in host memory.
        video_size: (height, width) of the source's frames, which the published rules take the masks of new objects
            through; None leaves them at the size they have.
        memory_frames: conditioning frames count as one, others each; at most the checkpoint's `num_maskmem`, which None
            stands for.
    """

    def __init__(
        self,
        model: Sam3VideoModel,
        rules: RuleSet = "published",
        object_batch: int = 64,
        num_frames: int | None = None,
        *,
        offload_state: bool = False,
        video_size: tuple[int, int] | None = None,
        memory_frames: int | None = None,
    ) -> None:
        tracker = model.tracker_model
        config = tracker.config
        if config.num_maskmem < 1:
            raise ValueError(f"the checkpoint's num_maskmem must be at least 1, got {config.num_maskmem}")
        self.module = tracker
        self.rules: RuleSet = rules
        self.video_size = video_size
        self.object_batch = object_batch
        self.dtype = tracker.no_memory_embedding.dtype
        self.device = tracker.no_memory_embedding.device
        self.read_rules = ReadRules(
            rules=rules,
            num_memories=memory_frames or config.num_maskmem,
            max_pointers=config.max_object_pointers_in_encoder,
            max_conditioning=config.max_cond_frame_num,
            num_frames=num_frames,
        )
        grid = tracker.prompt_encoder.image_embedding_size
        self.low_res_size: int = tracker.prompt_encoder.mask_input_size[0]
        self.memory_mask_size: int = 4 * self.low_res_size
        self.image_size: int = config.image_size
        self._parts: TrackerParts = kept(model, ("tracker", rules), lambda: TrackerParts(model, rules, self.dtype))
        self._head, self._attention = self._parts.head, self._parts.attention
        with torch.inference_mode():
            # Memories are kept in bfloat16 whatever the model's dtype, as both upstreams do.
            shape = (grid[0] * grid[1], tracker.mem_dim)
            self._memories = Bank(shape, torch.bfloat16, self.device, on_host=offload_state)
            self._pointers = Bank((tracker.hidden_dim,), self.dtype, self.device)
        # Frames whose scores are on their way to the host: read when the next frame asks what was seen.
        self._unresolved: list[tuple[list[FrameEntry], Tensor, torch.cuda.Event | None]] = []

    @property
    def rows_in_use(self) -> tuple[int, int]:
        """Memories and pointers held now: what bounds the tracker's memory."""
        return self._memories.in_use, self._pointers.in_use

    # State

    def saved(self, memories: Iterable[ObjectMemory]) -> SavedRows:
        """Copies of these objects' memories."""
        self._resolve()
        entries = [entry for memory in memories for entry in memory.entries]
        memory, pointer = (
            self._memories.saved(e.memory for e in entries),
            self._pointers.saved(e.pointer for e in entries),
        )
        return SavedRows(*memory, *pointer)

    def adopt(self, memories: Iterable[ObjectMemory], saved: SavedRows) -> None:
        """Takes over objects of another tracker, with what it saved of them: their rows are now this one's.

        Raises:
            ValueError: a row is missing, has two owners, or is of another model.
        """
        of_memory = self._memories.adopt(saved.memories, saved.memory_rows) | {NO_ROW: NO_ROW}
        of_pointer = self._pointers.adopt(saved.pointers, saved.pointer_rows)
        for entry in (entry for memory in memories for entry in memory.entries):
            if entry.memory not in of_memory or entry.pointer not in of_pointer:
                raise ValueError(f"row {entry.memory} or {entry.pointer} is not there, or has two owners")
            entry.pointer = of_pointer.pop(entry.pointer)
            if entry.memory != NO_ROW:
                entry.memory = of_memory.pop(entry.memory)

    # Tracking

    @torch.inference_mode()
    def track(
        self, features: FrameFeatures, frame: int, memories: Sequence[ObjectMemory], *, reverse: bool = False
    ) -> TrackedMasks:
        """Finds every object on `frame` by its memory.

        Stores each object's pointer for the frame; its memory follows with `encode_memory`.
        """
        output = self.look(features, frame, memories, reverse=reverse)
        if memories:
            self._store_tracked(frame, memories, output)
        return output

    @torch.inference_mode()
    def look(
        self, features: FrameFeatures, frame: int, memories: Sequence[ObjectMemory], *, reverse: bool = False
    ) -> HeadOutput:
        """What `track` finds, without storing anything. Objects of all ages share a batch where that is possible
        (`packed_attention`).
        """
        if not memories:
            empty = torch.zeros(0, dtype=self.dtype, device=self.device)
            return HeadOutput(empty.new_zeros(0, self.low_res_size, self.low_res_size), empty, empty, empty)
        parts, size, reads = self._parts, self.object_batch, self._reads(frame, memories, reverse)
        if parts.packed:
            batches = [reads[i : i + size] for i in range(0, len(reads), size)]
            outputs = [
                parts.follow(features, batch, self.read_rules, self._memories, self._pointers) for batch in batches
            ]
        else:
            images = self._fuse(features, reads).split(size)
            outputs = [self._head(part, features, multimask=parts.multimask) for part in images]
        return HeadOutput.joined(outputs)

    def _reads(self, frame: int, memories: Sequence[ObjectMemory], reverse: bool) -> list[Reads]:
        self._resolve()
        return [self.read_rules.reads(memory, frame, reverse) for memory in memories]

    def _fuse(self, features: FrameFeatures, reads: Sequence[Reads]) -> Tensor:
        """(N, C, g, g): the frame as each object sees it. Objects that read as much share a batch."""
        batches = [
            group[i : i + self.object_batch]
            for group in group_by_length(reads)
            for i in range(0, len(group), self.object_batch)
        ]
        fused = [
            self._attention(features, [reads[i] for i in batch], self.read_rules, self._memories, self._pointers)
            for batch in batches
        ]
        return in_order(fused, [i for batch in batches for i in batch])

    def _store_tracked(self, frame: int, memories: Sequence[ObjectMemory], output: HeadOutput) -> None:
        rows = self._pointers.write(output.pointers)
        entries = [FrameEntry(pointer=row) for row in rows]
        for memory, entry in zip(memories, entries, strict=True):
            self._drop(memory.tracked.pop(frame, None))
            memory.tracked[frame] = entry
        if self.rules == "published" and entries:
            # A frame's score is the object's own; Meta's code takes the mean over its batch.
            scores = output.score_logits
            presence = torch.where(scores > 0, scores.sigmoid() * 2 - 1, torch.zeros_like(scores))
            self._unresolved.append((entries, *to_host(presence * output.iou_scores > PASSING_SCORE)))

    def _resolve(self) -> None:
        for entries, passed, arrived in self._unresolved:
            if arrived is not None:
                arrived.synchronize()
            for entry, value in zip(entries, passed.tolist(), strict=True):
                entry.passed = value
        self._unresolved.clear()

    # Memory

    @torch.inference_mode()
    def encode_memory(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        mask_logits: Tensor,
        score_logits: Tensor,
        *,
        hard: bool = False,
    ) -> None:
        """Writes what later frames will remember of `frame` into the objects' entries of that frame.

        Args:
            mask_logits: (N, H, H). Published rules turn them into masks (sigmoid, or > 0 where
                `hard`) at the size given and then resize; transformers' resize first.
            score_logits: (N,) where not > 0, the memory says "not there".
            hard: the objects were prompted on this frame.
        """
        for i in range(0, len(memories), self.object_batch):
            part = slice(i, i + self.object_batch)
            encoded = self._parts.remember(features, mask_logits[part], score_logits[part], hard=hard)
            rows = self._memories.write(encoded)
            for memory, row in zip(memories[part], rows, strict=True):
                entry = memory.entry(frame)
                if entry is None:
                    raise ValueError(f"the object was neither tracked nor prompted on frame {frame}")
                self._memories.release([entry.memory])
                entry.memory = row

    def upsample(self, masks: Tensor) -> Tensor:
        """Low-resolution logits (N, h, h) -> (N, S, S), S the model's image size."""
        return resize(masks.unsqueeze(1), (self.image_size, self.image_size)).squeeze(1)

    # Prompts

    def mask_prompt(self, logits: Tensor) -> Tensor:
        """Mask logits (N, h, h) of a detector -> the masks (N, S, S), bool, that start new objects."""
        if self.rules == "transformers":
            return logits >= 0.5
        size = (self.memory_mask_size, self.memory_mask_size)
        return resize(logits.unsqueeze(1), size).squeeze(1) > 0

    @torch.inference_mode()
    def add_masks(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        masks: Tensor,
        groups: Sequence[int] | None = None,
    ) -> TrackedMasks:
        """Makes `frame` a conditioning frame of objects given as masks (N, H, W), bool or 0..1.

        Published rules let the masks of one group exclude each other in memory (None: all are one
        group); where they overlap the later one wins. Other objects are left alone.
        """
        prompted = self.set_masks(features, frame, memories, masks, groups)
        self.encode_prompts(features, frame, memories, prompted, groups)
        return prompted

    @torch.inference_mode()
    def set_masks(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        masks: Tensor,
        groups: Sequence[int] | None = None,
    ) -> Prompted:
        """`add_masks` without the memory, which `encode_prompts` adds once all prompts are known."""
        prompt = self._mask_input(masks)
        self._store_prompted(frame, memories, self._mask_pointers(features, prompt))
        there = (masks > 0).flatten(1).any(dim=1)
        scores = torch.where(there, MASK_PROMPT_SCORE, -MASK_PROMPT_SCORE)
        if self.rules == "published":
            apart = non_overlapping_masks(self._at_video_size(masks), groups)
            # +-1024, then soft at the border: what the published code stores of a mask prompt.
            step = max(1, _DEVICE_PIXELS // apart[0].numel())
            low = torch.cat([self._to_low_res(torch.where(part, -NO_OBJECT, NO_OBJECT)) for part in apart.split(step)])
            for_memory = self.upsample(low)
        else:
            for_memory = prompt[:, 0] * 20.0 - 10.0
            low = self._to_low_res(for_memory)
        return Prompted(low, scores, torch.ones_like(scores), for_memory)

    @torch.inference_mode()
    def set_clicks(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        clicks: Sequence[Clicks],
        *,
        reverse: bool = False,
    ) -> Prompted:
        """Segments each object by all its clicks on this frame; `encode_prompts` adds the memory.

        Published rules look at the frame alone, start from the mask of the round before, and make
        it a conditioning frame. transformers' rules do so only where the object was not tracked on
        the frame yet; else they read its memory and the frame remains an ordinary one.
        """
        refines = [self.rules == "transformers" and frame in memory.tracked for memory in memories]
        limited = [self._limit(click) for click in clicks]
        batches: dict[tuple[int, bool, bool], list[int]] = {}
        for i, click in enumerate(limited):
            batches.setdefault((len(click.labels), click.earlier is not None, refines[i]), []).append(i)
        outputs: list[HeadOutput] = []
        order: list[int] = []
        for (points, has_earlier, refine), group in batches.items():
            for start in range(0, len(group), self.object_batch):
                batch = group[start : start + self.object_batch]
                if refine:
                    images = self._fuse(features, self._reads(frame, [memories[i] for i in batch], reverse))
                else:
                    images = self._attention.without_memory(features).expand(len(batch), -1, -1, -1)
                given = [e for i in batch if (e := limited[i].earlier) is not None]
                multimask = self._head.uses_multimask(points)
                if refine:
                    multimask = multimask and self.module.config.multimask_output_for_tracking
                outputs.append(
                    self._head(
                        images,
                        features,
                        multimask=multimask,
                        points=to_device(torch.stack([limited[i].points for i in batch]), self.device),
                        labels=to_device(torch.stack([limited[i].labels for i in batch]), self.device),
                        masks=torch.stack(given) if has_earlier else None,
                    )
                )
                order += batch
        output = HeadOutput.joined(outputs, order)
        self._store_prompted(frame, memories, output.pointers)
        return Prompted(output.masks, output.score_logits, output.iou_scores, self.upsample(output.masks))

    def _limit(self, clicks: Clicks) -> Clicks:
        """Published rules give the model at most 16 points: the first 8 and the last 8."""
        if self.rules == "transformers":
            return replace(clicks, earlier=None)
        earlier = clicks.earlier
        if earlier is not None:
            earlier = earlier.clamp(-EARLIER_LOGIT_LIMIT, EARLIER_LOGIT_LIMIT)
        points, labels = clicks.points, clicks.labels
        if len(labels) > MAX_POINTS:
            half = MAX_POINTS // 2
            points, labels = torch.cat([points[:half], points[-half:]]), torch.cat([labels[:half], labels[-half:]])
        return Clicks(points, labels, earlier)

    @torch.inference_mode()
    def encode_prompts(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        prompted: Prompted,
        groups: Sequence[int] | None = None,
    ) -> None:
        """Encodes the memory of all objects that were prompted on `frame`, as hard masks.

        Published rules give every pixel to the one object of its group with the highest logit.
        """
        logits = prompted.memory_logits
        if self.rules == "published":
            logits = non_overlapping_logits(logits, groups)
        self.encode_memory(features, frame, memories, logits, prompted.score_logits, hard=True)

    @torch.inference_mode()
    def recondition(
        self,
        features: FrameFeatures,
        frame: int,
        memories: Sequence[ObjectMemory],
        masks: Tensor | None = None,
    ) -> None:
        """Makes `frame`, on which the objects were tracked, a conditioning frame of theirs.

        With masks (N, S, S), as the published rules have it, their pointers are recomputed from
        them; without, as transformers' have it, the tracked ones stay. The frame's memory is not written:
        `encode_memory` comes next.
        """
        if masks is not None:
            self._store_prompted(frame, memories, self._mask_pointers(features, self._mask_input(masks)))
            return
        for memory in memories:
            memory.conditioning[frame] = memory.tracked.pop(frame)

    def lend(self, frame: int, memory: ObjectMemory, givers: set[int]) -> None:
        """Makes `frame` a conditioning frame of an object that was tracked there, until `givers` are all removed."""
        memory.conditioning[frame] = memory.tracked.pop(frame)
        memory.borrowed[frame] = givers

    def take_back(self, frame: int, memory: ObjectMemory) -> None:
        """Makes a frame that was lent an ordinary one again."""
        del memory.borrowed[frame]
        memory.tracked[frame] = memory.conditioning.pop(frame)

    def make_ordinary(self, memory: ObjectMemory, frames: Iterable[int]) -> None:
        """Makes conditioning frames of one object ordinary ones."""
        self._resolve()
        for frame in frames:
            entry = memory.conditioning.pop(frame)
            memory.borrowed.pop(frame, None)
            entry.passed = True if entry.passed is None else entry.passed  # a mask prompt has the best of scores
            memory.tracked[frame] = entry

    def _mask_input(self, masks: Tensor) -> Tensor:
        """(N, H, W) -> (N, 1, S, S), S the size that `mask_downsample` brings to the decoder's.

        transformers takes the image's size instead, and resizes once more behind it.
        """
        side = self.memory_mask_size if self.rules == "published" else self.image_size
        prompt = masks.unsqueeze(1).to(self.dtype)
        return prompt if prompt.shape[-2:] == (side, side) else resize(prompt, (side, side), antialias=True)

    def _at_video_size(self, masks: Tensor) -> Tensor:
        """(N, H, W), bool or 0..1 -> bool at the size of the source's frames."""
        size = self.video_size
        if size is None or tuple(masks.shape[-2:]) == size:
            return masks > 0.5
        step = max(1, _DEVICE_PIXELS // (size[0] * size[1]))
        parts = [resize(part.float().unsqueeze(1), size, antialias=True).squeeze(1) > 0.5 for part in masks.split(step)]
        return torch.cat(parts)

    def _mask_pointers(self, features: FrameFeatures, prompt: Tensor) -> Tensor:
        multimask = self.rules == "transformers"  # the best of the candidates; otherwise the single-mask token
        parts = prompt.split(self.object_batch)
        return torch.cat([self._head.mask_pointers(features, part, multimask=multimask) for part in parts])

    def _to_low_res(self, logits: Tensor) -> Tensor:
        size = (self.low_res_size, self.low_res_size)
        return resize(logits.float().unsqueeze(1), size, antialias=True).squeeze(1).to(self.dtype)

    def _store_prompted(self, frame: int, memories: Sequence[ObjectMemory], pointers: Tensor) -> None:
        for memory, row in zip(memories, self._pointers.write(pointers), strict=True):
            if self.rules == "transformers" and frame in memory.tracked:
                self._drop(memory.tracked[frame])
                memory.tracked[frame] = FrameEntry(pointer=row)
                continue
            self._drop(memory.tracked.pop(frame, None))
            self._drop(memory.conditioning.get(frame))
            memory.conditioning[frame] = FrameEntry(pointer=row)

    # Forgetting

    def prune(
        self,
        frame: int,
        memories: Iterable[ObjectMemory],
        *,
        reverse: bool = False,
        keep_conditioning: bool = False,
    ) -> None:
        """After `frame` is done: drops what no later frame in this direction can read.

        The same numbers come out as if everything had been kept. `keep_conditioning` is for a pass
        that another one follows.
        """
        self._resolve()
        following = frame - 1 if reverse else frame + 1
        for memory in memories:
            if not memory.conditioning:
                continue
            with_memory, with_pointer = self.read_rules.keep(memory, following, reverse)
            if memory.backward_from is not None and not reverse:
                back_memory, back_pointer = self.read_rules.keep(memory, memory.backward_from - 1, True)
                with_memory |= back_memory
                with_pointer |= back_pointer
            for entries in (memory.tracked,) if keep_conditioning else (memory.conditioning, memory.tracked):
                for t in list(entries):
                    if t not in with_memory and entries[t].memory != NO_ROW:
                        self._memories.release([entries[t].memory])
                        entries[t].memory = NO_ROW
                    if t not in with_pointer and t not in with_memory:
                        self._drop(entries.pop(t))

    def forget(self, memories: Iterable[ObjectMemory]) -> None:
        """Frees the memories of objects that will no longer be tracked."""
        memories = list(memories)
        self.forget_tracked(memories)
        for memory in memories:
            for entry in memory.conditioning.values():
                self._drop(entry)
            memory.conditioning.clear()
            memory.borrowed.clear()

    def forget_tracked(self, memories: Iterable[ObjectMemory]) -> None:
        """Frees all but the conditioning frames."""
        for memory in memories:
            for entry in memory.tracked.values():
                self._drop(entry)
            memory.tracked.clear()

    def _drop(self, entry: FrameEntry | None) -> None:
        if entry is not None:
            self._pointers.release([entry.pointer])
            self._memories.release([entry.memory])
