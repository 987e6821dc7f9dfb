"""The process that decodes compressed frames; :mod:`.decoder` starts it and sends frames by standard input.

It imports the decoders, gives up all files, and then forks a child for each frame. The child gives up every
system call but those of computing before it reads the frame, returns samples, and is ended: nothing of a
frame reaches this process, the next frame, or anything else.
"""

import contextlib
import io
import mmap
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import jpeg_ls
import numpy as np
from imagecodecs import jpeg8_decode, jpegxl_decode
from openjpeg import utils as openjpeg
from PIL import ExifTags, Image, MpoImagePlugin, TiffImagePlugin, UnidentifiedImageError
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from ai_pipeline.confinement import die_with_parent, landlock, lower, seccomp
from ai_pipeline.images.decoder import (
    COMPLAINT,
    DEEPEST,
    ENDED,
    HEAD,
    LONGEST_COMPLAINT,
    PICTURE_HEADER,
    SAMPLES,
    SECONDS,
)
from ai_pipeline.images.limits import lacks_memory

MEMORY = 2 << 30  # bytes of addresses; 40 megapixels of RGB in 16 bits take 1.5 GiB
Decode = Callable[[bytes], bytes | bytearray | memoryview]
_GREY = frozenset({"1", "L", "LA"})
_LOSSY = frozenset({"jpeg", "tiff_jpeg", "webp"})
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF Orientation (CIPA DC-008); from 5 on rows become columns."""


def _opened(data: bytes) -> Image.Image:
    """The PNG, JPEG or TIFF, of which only the header is read. Raises ValueError if it is none, or has more
    than one picture.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError:
        raise ValueError("the file is not a readable picture: its header is damaged") from None
    several = picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1
    if picture.format == "TIFF":
        with contextlib.suppress(EOFError):
            picture.seek(1)
            several = True
        picture.seek(0)
    if several:
        raise ValueError("the file has several pictures or pages: send each as a file of its own")
    return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF Orientation of a picture that was opened; 1 if it says none, or Pillow turns it itself."""
    if picture.format == "TIFF":
        return 1
    if picture.format == "PNG":  # Pillow would decode the pixels, in search of one behind them
        exif = Image.Exif()
        exif.load(picture.info.get("exif", b""))
    else:
        exif = picture.getexif()
    return int(exif.get(ExifTags.Base.Orientation, 1))


def _picture_header(data: bytes) -> bytes:
    """Read the header of a picture, as ``PICTURE_HEADER``."""
    picture = _opened(data)
    is_deep = picture.mode.startswith("I")
    sides = picture.height, picture.width
    if _orientation(picture) in range(5, 9):
        sides = sides[::-1]
    colours = 1 if is_deep or picture.mode in _GREY else 3
    lossy = picture.format in {"JPEG", "MPO"} or picture.info.get("compression") in _LOSSY
    return PICTURE_HEADER.pack(*sides, colours, 2 if is_deep else 1, lossy)


def _picture(data: bytes) -> bytes:
    """Decode a picture to samples, upright: grey of 8 or 16 bits, all else as RGB. Raises ValueError for
    samples that are no whole numbers of 16 bits or less.
    """
    picture = _opened(data)
    if picture.mode == "F":
        raise ValueError("the pixel data are fractions: send whole numbers of 16 bits or less")
    try:
        picture.load()
    except OSError as error:
        if "truncated" not in str(error):
            raise
        raise ValueError("the file is cut off (truncated): the end of the picture is missing") from error
    turn = _UPRIGHT.get(_orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    if not picture.mode.startswith("I"):
        return upright.convert("L" if picture.mode in _GREY else "RGB").tobytes()
    samples = np.asarray(upright)
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise ValueError("the pixel data have more than 16 bits: send 16 or less")
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        samples = 0xFFFF - samples  # WhiteIsZero (TIFF 6.0): Pillow turns it where samples have 8 bits
    return samples.astype(np.uint16).tobytes()


def _jpeg(colours: str, data: bytes) -> memoryview:
    """Decode a JPEG to samples in the colours of its code stream: libjpeg-turbo converts none where what it
    reads and what it is asked for have the same name.
    """
    samples = jpeg8_decode(data, colorspace=colours, outcolorspace=colours)
    return np.ascontiguousarray(samples).data.cast("B")


def _jpeg_xl(data: bytes) -> memoryview:
    """Decode a JPEG XL to samples, colours as RGB; in this one thread."""
    return np.ascontiguousarray(jpegxl_decode(data, numthreads=1)).data.cast("B")


def _jpeg_ls(data: bytes) -> bytes:
    """Decode a JPEG-LS to samples. Zeros after its scan are removed: DCMTK accepts them, CharLS fails on
    them.
    """
    try:
        return bytes(jpeg_ls.decode_pixel_data(data)[0])
    except RuntimeError:
        scan, end, _ = data.rpartition(b"\xff\xd9")
        if not scan.endswith(b"\0"):
            raise
        return bytes(jpeg_ls.decode_pixel_data(scan.rstrip(b"\0") + end)[0])


def _halved(times: int, data: bytes) -> bytes:
    """Decode a grey JPEG 2000 at a lower resolution, halved ``times``: samples of 16 bits each, little
    endian.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG2000",)) as picture:
        cast(Jpeg2KImageFile, picture).reduce = times
        samples = np.asarray(picture)
    # Where a JPEG 2000 says how many bits a sample has, less one (ITU-T T.800 A.5.1)
    unused = 8 * samples.itemsize - (data[42] + 1)  # Pillow makes them as bright as its own
    return (samples >> unused).astype("<u2").tobytes()


DECODERS: Mapping[str, Decode] = {
    "charls": _jpeg_ls,
    "jpeg1": partial(_jpeg, "GRAYSCALE"),
    "jpeg3": partial(_jpeg, "YCBCR"),
    "libjxl": _jpeg_xl,
    "openjpeg": lambda frame: openjpeg.decode_pixel_data(frame, version=2),
    **{f"halved{times}": partial(_halved, times) for times in range(1, DEEPEST + 1)},
    "header": _picture_header,
    "picture": _picture,
}


def main(decoders: Mapping[str, Decode] = DECODERS) -> None:
    """Decode frames until standard input, a socket, closes: each message brings shared memory with a frame,
    which is replaced by its samples.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whom it serves may need it yet
        signal.signal(number, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = None  # who asks has looked at the header
    Image.preinit()  # of JPEG 2000 the import above
    assert MpoImagePlugin and TiffImagePlugin  # at hand: a JPEG with EXIF or several pictures needs them
    if seccomp.known():
        seccomp.computing()  # made here, it is at hand in every process
    with contextlib.suppress(OSError):  # the kernel shall rather take this process than the one it serves
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    files = landlock.allow_only((), ())
    control = socket.socket(fileno=0)
    here = os.getpid()
    if not (trial := os.fork()):
        os._exit(not _only_compute(here))
    control.sendall(bytes((files, os.waitpid(trial, 0)[1] == 0)))
    while memories := socket.recv_fds(control, 1, 1)[1]:
        life, held = os.pipe()  # held by the process as long as it lives
        if not (process := os.fork()):
            with contextlib.suppress(BaseException):
                control.close()
                _answer(memories[0], decoders, here)
                os._exit(0)
            os._exit(1)
        os.close(held)
        ready, _, _ = select.select(
            [control.fileno(), life], [], [], SECONDS
        )  # control: when nobody waits any more
        os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        control.sendall(ENDED.pack(status, not ready))
        os.close(life)
        os.close(memories[0])


def _only_compute(parent: int) -> bool:
    """Give up all rights but computing; returns False if that is impossible. Where system calls cannot be
    blocked, limits forbid open files and sockets, except for root. ``parent``: the process with which this
    one ends.
    """
    nothing = resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE
    lower({resource.RLIMIT_AS: MEMORY, **dict.fromkeys(nothing, 0)})
    return die_with_parent(parent) and seccomp.only_compute()


def _answer(file: int, decoders: Mapping[str, Decode], parent: int) -> None:
    """Decode the frame in the shared memory ``file`` (descriptor), and write there its samples, or why it
    cannot be decoded. ``parent``: the process with which this one ends.
    """
    memory = mmap.mmap(file, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    _only_compute(parent)
    name, size, length = HEAD.unpack(memory[: HEAD.size])
    try:
        samples = decoders[name.rstrip(b"\0").decode()](memory[HEAD.size : HEAD.size + size])
        if len(samples) != length:
            raise ValueError(f"the frame decodes to {len(samples)} bytes, the header describes {length}")
        head = SAMPLES
    except Exception as error:  # noqa: BLE001  (of any decoder)
        full = f"to decode it takes more than {MEMORY >> 20} MiB of memory"
        samples = (full if lacks_memory(error) else str(error)).encode()[:LONGEST_COMPLAINT]
        head = COMPLAINT
    memory[HEAD.size : HEAD.size + len(samples)] = samples
    memory[: HEAD.size] = HEAD.pack(head, len(samples), 0)


if __name__ == "__main__":
    main()
