"""The files to damage: small ones of every kind that users may supply."""

from __future__ import annotations

import io
import json
import multiprocessing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.format import ContainerFormat, formats_available
from PIL import Image

# One codec per container, the first that its muxer accepts. Pictures are small, since damage to tables matters most.
_CODECS = ("libx264", "mpeg4", "libvpx", "mpeg2video", "mjpeg", "gif", "rawvideo", "dvvideo", "flv", "wmv2", "theora")
_MORE = (  # (name, muxer, codec, pixel format): other codecs in the containers that carry them
    ("h265.mp4", "mp4", "libx265", "yuv420p"),
    ("h265.mkv", "matroska", "libx265", "yuv420p"),
    ("av1.mp4", "mp4", "libsvtav1", "yuv420p"),
    ("av1.webm", "webm", "libaom-av1", "yuv420p"),
    ("vp8.webm", "webm", "libvpx", "yuv420p"),
    ("vp9.webm", "webm", "libvpx-vp9", "yuv420p"),
    ("vp9.ivf", "ivf", "libvpx-vp9", "yuv420p"),
    ("av1.obu", "obu", "libsvtav1", "yuv420p"),
    ("mjpeg.mov", "mov", "mjpeg", "yuvj420p"),
    ("prores.mov", "mov", "prores_ks", "yuv422p10le"),
    ("png.mov", "mov", "png", "rgb24"),
    ("ffv1.mkv", "matroska", "ffv1", "yuv420p"),
    ("theora.ogv", "ogg", "libtheora", "yuv420p"),
    ("h264.ts", "mpegts", "libx264", "yuv420p"),
    ("mpeg2.ts", "mpegts", "mpeg2video", "yuv420p"),
    ("mpeg4.avi", "avi", "mpeg4", "yuv420p"),
    ("mjpeg.avi", "avi", "mjpeg", "yuvj420p"),
    ("h264.flv", "flv", "libx264", "yuv420p"),
    ("flv1.flv", "flv", "flv", "yuv420p"),
    ("wmv2.asf", "asf", "wmv2", "yuv420p"),
    ("mpeg2.mxf", "mxf", "mpeg2video", "yuv422p"),
    ("dnxhd.mxf", "mxf", "dnxhd", "yuv422p"),
    ("gif.gif", "gif", "gif", "rgb8"),
    ("raw.nut", "nut", "rawvideo", "yuv420p"),
    ("raw.y4m", "yuv4mpegpipe", "rawvideo", "yuv420p"),
)
_SKIPPED = {"image2", "image2pipe", "null", "fifo", "tee", "segment", "hls", "dash", "hds", "smoothstreaming"}
_NETWORK = {"rtp", "rtp_mpegts", "rtsp", "sap", "whip", "fbdev", "alsa", "oss", "video4linux2,v4l2", "sdl", "xv"}


def write(kind: str, folder: Path) -> list[bytes]:
    """Makes the originals of a kind once, and keeps them in a folder."""
    folder = folder / kind
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for name, data in _MAKERS[kind]():
            (part / name).write_bytes(data)
        part.rename(folder)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _videos() -> Iterator[tuple[str, bytes]]:
    warnings.simplefilter("ignore")
    av.logging.set_level(av.logging.PANIC)
    for muxer in sorted(formats_available):
        try:
            if not ContainerFormat(muxer, "w").is_output or muxer in _SKIPPED | _NETWORK or "hash" in muxer:
                continue
        except ValueError:
            continue
        for codec in _CODECS:
            data = _encoded(muxer, codec, "yuv420p")
            if data is not None:
                yield f"{muxer.replace(',', '_')}-{codec}", data
                break
    for name, muxer, codec, pix_fmt in _MORE:
        data = _encoded(muxer, codec, pix_fmt)
        if data is not None:
            yield name, data
    for name, muxer, sound in (("a.mp4", "mp4", "aac"), ("a.mkv", "matroska", "flac"), ("a.ts", "mpegts", "mp2")):
        data = _encoded(muxer, "libx264", "yuv420p", sound=sound)
        if data is not None:
            yield name, data
    for name, options in (("fragmented.mp4", "frag_keyframe+empty_moov"), ("front.mp4", "faststart")):
        data = _encoded("mp4", "libx264", "yuv420p", {"movflags": options})
        if data is not None:
            yield name, data


def _encoded(
    muxer: str, codec: str, pix_fmt: str, options: dict[str, str] | None = None, sound: str | None = None
) -> bytes | None:
    """Runs `_encode` in a separate process, because some muxers crash on foreign codecs."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: theirs.send_bytes(_encode(muxer, codec, pix_fmt, options, sound) or b""))
    process.start()
    theirs.close()
    try:
        return (ours.recv_bytes() if ours.poll(60) else b"") or None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()
        ours.close()


def _encode(muxer: str, codec: str, pix_fmt: str, options: dict[str, str] | None, sound: str | None) -> bytes | None:
    """Encodes a clip of 8 frames; None if muxer and codec do not fit together."""
    size = (720, 576) if codec == "dvvideo" else (1280, 720) if codec == "dnxhd" else (48, 32)
    sink = io.BytesIO()
    try:
        with av.open(sink, "w", format=muxer, options=options or {}) as out:
            stream: Any = out.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.thread_count = 1
            stream.codec_context.gop_size = 4
            if codec == "libx265":
                stream.codec_context.options = {"x265-params": "log-level=none:pools=none"}
            if codec == "dnxhd":
                stream.bit_rate = 60_000_000
            audio: Any = out.add_stream(sound, rate=44100, layout="mono") if sound else None
            for i in range(8):
                picture = np.random.default_rng(i).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
                picture = picture.repeat(8, 0).repeat(8, 1)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                out.mux(stream.encode(frame.reformat(format=pix_fmt)))
            out.mux(stream.encode(None))
            if audio is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 12_800), np.int16), format="s16", layout="mono")
                silence.sample_rate = 44100
                out.mux(audio.encode(silence))
                out.mux(audio.encode(None))
    except (av.error.FFmpegError, ValueError, OSError, AttributeError, TypeError):
        return None
    data = sink.getvalue()
    return data if 0 < len(data) < 400_000 and _has_frames(data) else None


def _has_frames(data: bytes) -> bool:
    try:
        with av.open(io.BytesIO(data), "r") as container:
            return next(iter(container.decode(video=0)), None) is not None
    except (av.error.FFmpegError, ValueError, IndexError, OSError):
        return False


def _images() -> Iterator[tuple[str, bytes]]:
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            sink = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(picture).convert(mode).save(sink, "JPEG", progressive=progressive, exif=exif)
            yield f"{mode}-{progressive}.jpg", sink.getvalue()
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        sink = io.BytesIO()
        if mode == "I;16":
            Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(sink, "PNG")
        else:
            Image.fromarray(picture).convert(mode).save(sink, "PNG")
        yield f"{mode.replace(';', '')}.png", sink.getvalue()
    sink = io.BytesIO()
    frames = [Image.fromarray(np.roll(picture, i, 0)) for i in range(3)]
    frames[0].save(sink, "PNG", save_all=True, append_images=frames[1:])
    yield "animated.png", sink.getvalue()
    for name, options in (("lossy", {}), ("lossless", {"lossless": True}), ("animated", {"save_all": True})):
        sink = io.BytesIO()
        more = {"append_images": frames[1:]} if name == "animated" else {}
        frames[0].convert("RGBA").save(sink, "WEBP", **options, **more)
        yield f"{name}.webp", sink.getvalue()


_CSV = 'uri,clip_id,prompts,start_s,end_s,fps,other\na.mp4,a,"x; y",1.5,2.5,5,z\n"b,c.mp4",,,,,,\ns3://b/k.mp4,id-3,p,,9,,7\n'
_JSONL = (
    '{"uri": "a.mp4", "clip_id": "a", "prompts": ["x", "y"], "start_s": 1.5, "other": {"a": [1, null]}}\n'
    '{"uri": "s3://b/k.mp4", "end_s": 2e1, "fps": 5, "visual_prompts": [{"object_id": 1, "frame": 0, '
    '"units": "relative", "points": [[0.5, 0.25]], "labels": [1]}]}\n'
    '{"uri": "https://h/x.mp4?sig=a%2Fb", "visual_prompts": "[]", "other": {"a": [2], "b": true}}\n'
)
_PROMPTS = (
    '{"clip_id": "a", "object_id": 1, "label": "dog", "frame": 3, "units": "pixels", "box": [1, 2, 30.5, 40]}\n'
    '{"clip_id": "a", "object_id": 2, "time_s": 0.5, "units": "relative", "points": [[0.5, 0.5], [1, 0]], '
    '"labels": ["positive", 0]}\n'
    '{"clip_id": "b", "label": "cat", "frame": 0, "mask": {"size": [4, 6], "counts": "9220003"}}\n'
    '{"clip_id": "c", "object_id": 7, "frame": 2, "mask": {"png": "masks/a.png"}}\n'
)
_YAML = (
    "manifest: s3://bucket/clips.parquet\noutput: /labels/run-1\nprompts: [person, 'red car']\n"
    "model: {checkpoint: facebook/sam3, dtype: auto, device: cuda:0}\ntracking:\n  new_det_thresh: 0.7  # note\n"
    "  hotstart_delay: 15\nvideo:\n  fps: 1.5\n  max_pixels: 1_000_000\ncluster:\n  address: null\n"
    "  actors: {min: 1, max: 8}\nretry: {crashes: 3}\nstorage:\n  s3: {endpoint_url: https://minio.example}\n"
)


def _parquets() -> Iterator[tuple[str, bytes]]:
    table = pa.table(
        {
            "uri": [f"s3://b/{i}.mp4" for i in range(20)],
            "prompts": [["x", "y"]] * 20,
            "start_s": [None, 1.5] * 10,
            "meta": [{"a": i} for i in range(20)],
            "kind": pa.array(["a", "b"] * 10).dictionary_encode(),
            "when": pa.array(range(20), pa.timestamp("ns")),
            "price": pa.array([None] * 20, pa.decimal128(10, 2)),
        }
    )
    for compression in ("none", "snappy", "zstd", "gzip", "brotli", "lz4"):
        for version in ("1.0", "2.0"):
            sink = io.BytesIO()
            pq.write_table(table, sink, row_group_size=8, compression=compression, data_page_version=version)
            yield f"{compression}-{version}.parquet", sink.getvalue()


def _texts(**texts: str) -> Iterator[tuple[str, bytes]]:
    for name, text in texts.items():
        yield name, text.encode()


_MAKERS = {
    "video": _videos,
    "image": _images,
    "csv": lambda: _texts(a=_CSV, b=_CSV.replace("\n", "\r\n"), c="\ufeff" + _CSV),
    "jsonl": lambda: _texts(
        a=_JSONL, c=_JSONL.splitlines()[1], b=json.dumps({"uri": "a.mp4", "prompts": "x;y"}) + "\n"
    ),
    "prompts": lambda: _texts(all=_PROMPTS, **{f"line{i}": line for i, line in enumerate(_PROMPTS.splitlines())}),
    "yaml": lambda: _texts(a=_YAML, b=json.dumps({"manifest": "a", "output": "b", "prompts": ["x"]})),
    "parquet": _parquets,
}
KINDS = tuple(_MAKERS)
