"""Damages inputs: bits and bytes of any file, and the structure of formats that have one.

The seed decides everything: `mutate(kind, originals, seed)` gives the same on every machine.
"""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Data = bytearray
Edit = Callable[[Data, random.Random], None]

_TEXTS = ("csv", "jsonl", "yaml", "prompts")  # a single slip makes the reader refuse the whole
_WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_LENGTHS = (1, 4, 16, 200, 3000)


def mutate(kind: str, originals: Sequence[bytes], seed: int) -> bytes:
    rng = random.Random(f"{kind} {seed}")
    data = bytearray(rng.choice(originals))
    edits: list[Edit] = [*_EDITS_BY_KIND[kind], _flip, _byte, _word, _zeros, _noise, _cut, _drop, _repeat]
    weights = [4] * len(_EDITS_BY_KIND[kind]) + [1] * 8
    for _ in range(rng.choice([1, 1, 1, 2, 3] if kind in _TEXTS else [1, 1, 1, 2, 3, 6, 20])):
        if len(data) < 8:
            break
        if rng.random() < 0.05:
            _splice(data, rng, rng.choice(originals))
        else:
            rng.choices(edits, weights)[0](data, rng)
    return bytes(data[:4_000_000])


# Bytes of any file. Most formats have their tables at the beginning or end, so most damage goes there.


def _place(data: Data, rng: random.Random) -> int:
    zone = rng.choice(["head", "tail", "any"])
    low, high = {"head": (0, 600), "tail": (len(data) - 1500, len(data)), "any": (0, len(data))}[zone]
    return rng.randrange(max(0, low), max(1, min(high, len(data))))


def _flip(data: Data, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: Data, rng: random.Random) -> None:
    data[_place(data, rng)] = rng.randrange(256)


def _word(data: Data, rng: random.Random) -> None:
    at, form = _place(data, rng), rng.choice([">I", "<I", ">H", "<H", ">Q", "<Q", "B"])
    size = struct.calcsize(form)
    value = rng.choice([*_WORDS, rng.getrandbits(32), len(data), len(data) - at]) % (1 << 8 * size)
    data[at : at + size] = struct.pack(form, value)


def _zeros(data: Data, rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice(_LENGTHS)
    data[at : at + length] = bytes(len(data[at : at + length]))


def _noise(data: Data, rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice(_LENGTHS)
    data[at : at + length] = rng.randbytes(len(data[at : at + length]))


def _cut(data: Data, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _drop(data: Data, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice(_LENGTHS)]


def _repeat(data: Data, rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice(_LENGTHS)
    data[at:at] = data[at : at + length] * rng.choice([1, 1, 3, 50])


def _splice(data: Data, rng: random.Random, other: bytes) -> None:
    at, start, length = _place(data, rng), rng.randrange(max(1, len(other))), rng.choice(_LENGTHS)
    data[at : at + length] = other[start : start + length]


# Boxes, chunks, elements: each has a length, and may contain others.


def _boxes(data: Data, start: int, end: int, depth: int = 0) -> list[tuple[int, int]]:
    """(start, end) of the boxes of an MP4, outer ones first; only of plausible ones."""
    found: list[tuple[int, int]] = []
    at = start
    while at + 8 <= end and len(found) < 400:
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 0:
            size = end - at
        if size < 8 or at + size > end or not re.fullmatch(rb"[ -~\xa9]{4}", name):
            break
        found.append((at, at + size))
        if name in _PARENTS and depth < 8:
            found += _boxes(data, at + 8, at + size, depth + 1)
        at += size
    return found


_PARENTS = frozenset(b"moov trak mdia minf stbl edts dinf moof traf mvex udta".split())


def _box(data: Data, rng: random.Random) -> None:
    """Damages a box of an MP4: changes its length, count or another number; doubles, removes, renames or moves it."""
    boxes = _boxes(data, 0, len(data))
    if not boxes:
        _word(data, rng)
        return
    start, end = rng.choice(boxes)
    what = rng.choice(["size", "count", "count", "number", "number", "number", "double", "remove", "rename", "fill"])
    if what == "size":
        size = rng.choice([*_WORDS, end - start + rng.choice([-8, -1, 1, 8, 1 << 20])])
        struct.pack_into(">I", data, start, size % (1 << 32))
    elif what in ("count", "number") and end - start >= 16:
        at = start + 12 if what == "count" else start + 8 + 4 * rng.randrange((end - start - 8) // 4)
        value = rng.choice([*_WORDS, rng.getrandbits(rng.choice([8, 16, 24, 31])), (end - start) // 4])
        struct.pack_into(">I", data, min(at, len(data) - 4), value)
    elif what == "double":
        data[start:start] = data[start:end]
    elif what == "remove":
        del data[start:end]
    elif what == "rename":
        data[start + 4 : start + 8] = rng.choice(
            [b"free", b"stsz", b"stts", b"ctts", b"stsc", b"co64", b"elst", b"trun"]
        )
    else:
        data[start + 8 : end] = rng.choice([bytes(end - start - 8), b"\xff" * (end - start - 8)])


_SAMPLE_TABLES = (
    b"stsz stts ctts stsc stco co64 stss elst trun tfhd tfdt sidx sgpd sbgp saiz saio tkhd mdhd avcC hvcC".split()
)


def _sample_table(data: Data, rng: random.Random) -> None:
    """Changes a number in one of the tables that make demuxers allocate memory."""
    at = data.find(rng.choice(_SAMPLE_TABLES))
    if at < 0 or at + 12 > len(data):
        _box(data, rng)
        return
    place = min(len(data) - 4, at + 4 + 4 * rng.randrange(10))
    struct.pack_into(">I", data, place, rng.choice([*_WORDS, 10**6, 10**8, rng.getrandbits(24)]))


def _element(data: Data, rng: random.Random) -> None:
    """Changes the length of an EBML element (Matroska), wherever one seems to be."""
    ids = (0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x1C53BB6B, 0x1F43B675, 0xA3, 0xA0, 0xEC, 0x63A2)
    wanted = rng.choice(ids)
    name = wanted.to_bytes((wanted.bit_length() + 7) // 8, "big")
    at = data.find(name, rng.randrange(len(data)) if rng.random() < 0.5 else 0)
    if at < 0 or at + len(name) >= len(data):
        _word(data, rng)
        return
    at += len(name)
    length = 9 - max(1, data[at].bit_length())
    value = rng.choice([0, 1, (1 << 7 * length) - 1, rng.getrandbits(7 * length), len(data)]) % (1 << 7 * length)
    data[at : at + length] = (value | 1 << 7 * length).to_bytes(length, "big")


def _chunk(data: Data, rng: random.Random) -> None:
    """Changes the length of a RIFF chunk (AVI), or a number just after its name."""
    names = (b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"indx", b"idx1", b"00dc", b"movi", b"JUNK")
    if data[8:12] == b"WEBP":
        names = (b"RIFF", b"VP8X", b"VP8L", b"VP8 ", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"WEBP")
    at = data.find(rng.choice(names))
    if at < 0 or at + 12 > len(data):
        _word(data, rng)
        return
    struct.pack_into("<I", data, min(len(data) - 4, at + 4 + 4 * rng.choice([0, 0, 0, 1, 2, 5, 9])), rng.choice(_WORDS))


def _packets(data: Data, rng: random.Random) -> None:
    """Swaps, doubles or drops packets of a transport stream, or pages of an Ogg file."""
    size = 188 if data[:1] == b"\x47" else max(1, data.find(b"OggS", 4))
    count = len(data) // size
    if count < 3:
        _repeat(data, rng)
        return
    a, b = rng.randrange(count) * size, rng.randrange(count) * size
    what = rng.choice(["swap", "double", "lose"])
    if what == "swap":
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    elif what == "double":
        data[a:a] = data[b : b + size]
    else:
        del data[a : a + size]


def _png_chunk(data: Data, rng: random.Random) -> None:
    """Changes a chunk of a PNG and corrects its checksum, so that readers get past it."""
    if data[:4] != b"\x89PNG":
        (_chunk if data[:4] == b"RIFF" else _jpeg_segment)(data, rng)
        return
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            break
        chunks.append((at, size))
        at += 12 + size
    if not chunks:
        return
    at, size = rng.choice(chunks)
    name, payload = bytes(data[at + 4 : at + 8]), bytearray(data[at + 8 : at + 8 + size])
    what = rng.choice(["number", "number", "noise", "bomb", "rename", "double", "text"])
    if what == "number" and size >= 4:
        struct.pack_into(">I", payload, rng.randrange(size - 3), rng.choice([*_WORDS, 30_000, 5_000]))
    elif what == "noise" and size:
        payload[rng.randrange(size)] = rng.randrange(256)
    elif what == "bomb":
        payload = bytearray(zlib.compress(bytes(rng.choice([100, 10**5, 10**7]))))
    elif what == "rename":
        name = rng.choice([b"IDAT", b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"fdAT", b"fcTL", b"acTL", b"IEND"])
    elif what == "text":
        name, payload = b"zTXt", bytearray(b"a\0\0" + zlib.compress(b"x" * rng.choice([10, 10**7])))
    chunk = struct.pack(">I", len(payload)) + name + payload
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    data[at : at + (0 if what in ("double", "text") else 12 + size)] = chunk


def _jpeg_segment(data: Data, rng: random.Random) -> None:
    """Changes a marker segment of a JPEG: its length, the picture's size, sampling, tables, scans."""
    places = [m.start() for m in re.finditer(rb"\xff[\xc0-\xcf\xda-\xde\xe0-\xef]", bytes(data))]
    if not places:
        _word(data, rng)
        return
    at = rng.choice(places)
    what = rng.choice(["length", "word", "word", "scan", "remove", "marker"])
    if what == "length":
        data[at + 2 : at + 4] = struct.pack(">H", rng.choice([0, 1, 2, 8, 0xFFFF, rng.getrandbits(16)]))
    elif what == "word":
        place = at + 4 + rng.randrange(12)
        data[place : place + 2] = struct.pack(">H", rng.choice([0, 1, 0xFFFF, 8192, 5000, rng.getrandbits(16)]))
    elif what == "scan":
        start = data.find(b"\xff\xda")
        data[start:start] = data[start : start + 60] * rng.choice([1, 10, 300]) if start >= 0 else b""
    elif what == "remove":
        del data[at : at + rng.choice([2, 4, 20])]
    else:
        data[at + 1] = rng.choice([0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xD9, 0xDA, 0xE1, 0xE2, 0xED])


def _footer(data: Data, rng: random.Random) -> None:
    """Changes the metadata of a Parquet file: Thrift, where most bytes are numbers, lengths and types."""
    if len(data) < 12:
        return
    size = int.from_bytes(data[-8:-4], "little")
    start = max(4, len(data) - 8 - size)
    at = rng.randrange(start, len(data) - 7)
    what = rng.choice(["byte", "varint", "size", "drop", "page"])
    if what == "byte":
        data[at] = rng.randrange(256)
    elif what == "varint":
        data[at : at + rng.choice([0, 1, 2, 3])] = rng.choice(
            [b"\xff\xff\xff\xff\x0f", b"\xfe\xff\x03", b"\0", b"\x02"]
        )
        data[-8:-4] = struct.pack("<I", max(0, len(data) - 8 - start))
    elif what == "size":
        data[-8:-4] = struct.pack("<I", rng.choice([*_WORDS, size + 1, size - 1, len(data)]) % (1 << 32))
    elif what == "drop":
        del data[at : at + rng.choice([1, 2, 8])]
        data[-8:-4] = struct.pack("<I", max(0, len(data) - 8 - start))
    else:  # a page's header lies at the beginning of each column
        data[rng.randrange(4, start + 1)] = rng.randrange(256)


# Tokens of a text.

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+-]+|\s+|.', re.S)
_SCRAPS = (
    *(b"null true false NaN Infinity -Infinity 1e999 -0 0x10 1_000 1e-400 0.1e1 .5 ~ yes NO on 12:30:45".split()),
    *(b'"" {} [] [[]] {"a":1} , : ; - # & * ! | > % @ ` \' " \\ ? : \t \n \r\n \0 \x1b[31m \xff'.split(b" ")),
    *("\u202e \u2028 \ufeff \U0001f600 \u00e9 \u0130 \ud7ff \ufffe \u200d \u00a0".encode().split(b" ")),
    *(b"!!python/object:os.system !!binary !!set !!omap <<: &a *a %YAML --- ... ../../etc/passwd s3://b/k".split()),
    *(b"file:///dev/zero FILE:///etc/passwd reference://x simplecache::s3://b/k http://[::1]/ ftp://h/ //h/s".split()),
    b"0x" + b"f" * 5000, b"1" + b":1" * 3000,
    b"9" * 5000, b"a" * 5000, b"[" * 3000, b'{"a":' * 3000, b"{" * 3000, b"- " * 3000, b",,,,,,", b'"' * 99, b"\\u0000",
    b"\xed\xa0\x80", b"[" * 100_000, b'{"a":[' * 50_000, b"uri", b"clip_id", b"prompts", b"visual_prompts", b"fps",
    b"exemplars", b"boxes",
)  # fmt: skip


def _token(data: Data, rng: random.Random) -> None:
    """Replaces, doubles, removes, swaps or moves a word or mark of a text."""
    if len(data) > 500_000:
        _cut(data, rng)
        return
    tokens = _TOKEN.findall(bytes(data))
    if not tokens:
        return
    at = rng.randrange(len(tokens))
    what = rng.choice(["replace", "replace", "insert", "remove", "double", "swap", "many"])
    scrap = rng.choice(_SCRAPS if rng.random() < 0.9 else tokens)
    if len(scrap) > 10_000 and rng.random() < 0.9:  # the deepest ones are slow to read, so they are rare
        scrap = scrap[:100]
    if what == "replace":
        tokens[at] = scrap
    elif what == "insert":
        tokens.insert(at, scrap)
    elif what == "remove":
        del tokens[at]
    elif what == "double":
        tokens.insert(at, tokens[at])
    elif what == "swap":
        other = rng.randrange(len(tokens))
        tokens[at], tokens[other] = tokens[other], tokens[at]
    else:
        tokens[at] = tokens[at] * rng.choice([2, 10, 1000])
    data[:] = b"".join(tokens)


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, -(10**30), 0.5, -0.0, 1e-320, 1e308, 1e15, float("nan"),
    "", " ", "a", "a;b", "A", "x" * 300, "\x1b[2J", "\u202e", "\0", "\ud800", "pixels", "relative", "positive", "../..",
    "s3://b/k", "S3://b/k", "s3:b", "::", "reference::x", "file:///dev/zero", "http://h/%2e%2e?a=%41", "[1, 2]", "{}",
    [], [[]], [0, 0, 1, 1], [5, 5, 1, 1], [0.5, 0.5], [1] * 500, {}, {"a": None}, {"size": [4, 6], "counts": "9220003"},
    {"size": [65536, 65536], "counts": "0"}, {"size": [1, 1], "counts": "o" * 40}, {"png": "/dev/zero"},
)  # fmt: skip


def _json_value(data: Data, rng: random.Random) -> None:
    """Replaces or removes a value somewhere in a line of JSON, or moves it to another key."""
    lines = bytes(data).splitlines()
    at = rng.randrange(max(1, len(lines)))
    try:
        record = json.loads(lines[at])
    except (ValueError, IndexError, RecursionError):
        _token(data, rng)
        return
    parent, node = None, record
    while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.7):
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        parent, node = node, node[key]
    if parent is None:
        return
    what = rng.choice(["replace", "replace", "replace", "remove", "rename", "wrap"])
    if what == "replace":
        parent[key] = rng.choice(_VALUES)
    elif what == "remove":
        del parent[key]
    elif what == "rename" and isinstance(parent, dict):
        parent[rng.choice(["uri", "clip_id", "frame", "box", "points", "mask", "time_s", "x", "", "\x1b[1m"])] = node
    else:
        parent[key] = [node] if rng.random() < 0.5 else {"a": node}
    lines[at] = json.dumps(record).encode("utf-8", "replace")
    data[:] = b"\n".join(lines)


_EDITS_BY_KIND: dict[str, list[Edit]] = {
    "video": [_box, _sample_table, _element, _chunk, _packets],
    "image": [_png_chunk, _jpeg_segment],
    "parquet": [_footer, _footer],
    **{kind: [_token, _token, _token] for kind in ("csv", "yaml")},
    **{kind: [_token, *[_json_value] * 9] for kind in ("jsonl", "prompts")},
}
