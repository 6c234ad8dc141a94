"""Detects files that end before the data that their containers list.

libav reports the end of a cut-off file as a normal end.
"""

from __future__ import annotations

from av.container import InputContainer
from av.video.stream import VideoStream

from sam3ray.video._opened import VideoSource, opened, size_of

HEAD_BYTES = 4096


def listed_packets(container: InputContainer, stream: VideoStream) -> int | None:
    """The number of packets in the container's own table; None if there is no such table.

    In a fragmented MP4, the table grows while reading, so call this at the end.
    """
    return len(stream.index_entries) if container.format.name.startswith("mov") else None


def will_end_early(path: VideoSource, container: InputContainer, stream: VideoStream) -> bool:
    """Whether it is clear before reading that the file ends before its video."""
    if matroska_is_cut_off(path):
        return True
    count = listed_packets(container, stream)
    if not count:
        return False
    last = stream.index_entries[count - 1]
    return last.pos + last.size > size_of(path)


def intact_until(container: InputContainer, stream: VideoStream, size: int | None, head: bytes) -> float | None:
    """Seconds into the stream up to which the file is certainly complete; None if all of it is, as far as headers
    show.

    Args:
        size: size of the file in bytes; None if unknown.
        head: its first bytes.
    """
    if size is None:
        return None
    segment = segment_of(head, size)
    if segment is not None and (segment[0] or 0) > size:
        return 0.0  # only reading shows which time that is
    if not listed_packets(container, stream) or stream.time_base is None:
        return None
    missing = [entry.timestamp for entry in stream.index_entries if entry.pos + entry.size > size]
    if not missing:
        return None
    start = stream.start_time or 0
    return max(0.0, float((min(missing) - start) * stream.time_base))


def matroska_is_cut_off(path: VideoSource) -> bool:
    """Whether a Matroska or WebM file is shorter than its segment. False for segments of unknown size (live)."""
    bounds = matroska_segment(path)
    return bounds is not None and bounds[0] is not None and bounds[0] > bounds[1]


def matroska_segment(path: VideoSource) -> tuple[int | None, int] | None:
    """(end of the first segment, None if unknown; size of the file) of a Matroska file; None for other files."""
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
    return segment_of(head, size)


def segment_of(head: bytes, size: int) -> tuple[int | None, int] | None:
    """Like `matroska_segment`, from the first HEAD_BYTES of a file of this size."""
    header = element(head, 0)
    if header is None or header[0] != 0x1A45DFA3 or header[2] is None:
        return None
    segment = element(head, header[1] + header[2])
    if segment is None or segment[0] != 0x18538067:
        return None
    return None if segment[2] is None else segment[1] + segment[2], size


def element(data: bytes, at: int) -> tuple[int, int, int | None] | None:
    """(id, offset of the content, its size or None if unknown) of the EBML element at an offset (RFC 8794)."""
    if at >= len(data) or data[at] == 0:
        return None
    id_length = 9 - data[at].bit_length()
    at_size = at + id_length
    if at_size >= len(data) or data[at_size] == 0:
        return None
    size_length = 9 - data[at_size].bit_length()
    content = at_size + size_length
    if content > len(data):
        return None
    size = int.from_bytes(data[at_size:content], "big") & ((1 << 7 * size_length) - 1)
    unknown = size == (1 << 7 * size_length) - 1
    return int.from_bytes(data[at:at_size], "big"), content, None if unknown else size
