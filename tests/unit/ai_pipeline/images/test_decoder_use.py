"""The decoder's process in use: by threads and child processes, for pictures, never for a JP2 file."""

from __future__ import annotations

import multiprocessing
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from ai_pipeline.errors import CodestreamFault, PixelError
from ai_pipeline.images import codestreams, decoder
from ai_pipeline.images.decode import open_dicom, open_picture
from tests.unit.ai_pipeline.phantoms import decodes, echo, write_dicom


def test_threads_take_turns() -> None:
    from ai_pipeline.images.decoder import DECODER

    frames = [_picture(seed) for seed in range(4)]
    decoded: dict[int, bytes] = {}

    def decode(number: int) -> None:
        decoded[number] = bytes(DECODER.decode("picture", frames[number][0], 360 * 480))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [decoded[number] for number in range(4)] == [samples for _, samples in frames]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemons_of_multiprocessing_decode(tmp_path: Path, method: str) -> None:
    path = write_dicom(tmp_path / "good.dcm", echo()[None], JPEGLSLossless)
    codestreams.DECODER.start()

    with multiprocessing.get_context(method).Pool(1) as pool:  # daemons may have no processes of their own
        assert pool.apply(_sum, (path,)) == int(echo().sum())

    assert decodes(tmp_path)


def _sum(path: Path) -> int:
    return int(open_dicom(path).stored().sum())


def _picture(seed: int) -> tuple[bytes, bytes]:
    import io

    file = io.BytesIO()
    Image.fromarray(echo(seed)).save(file, "PNG")
    return file.getvalue(), echo(seed).tobytes()


def test_an_interrupted_wait_does_not_mix_up_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytearray:
        raise KeyboardInterrupt

    codestreams.DECODER.start()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(decoder, "_received", interrupted)
        codestreams.DECODER.decode("picture", _picture(1)[0], 360 * 480)

    assert decodes(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_pictures_of_every_kind_become_the_samples_that_pillow_gives(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(echo().astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(echo())
    picture = grey if mode == "I;16" else grey.convert("RGB").convert(mode)
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture.save(path)

    samples = open_picture(path, "US").samples

    with Image.open(path) as again:
        plain = {"1": "L", "LA": "L", "L": "L", "I;16": "I;16"}.get(mode, "RGB")
        expected = np.asarray(again if again.mode == plain else again.convert(plain))
    assert samples.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert np.array_equal(samples, expected)


def test_a_picture_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(_picture(1)[0][:5000])

    with pytest.raises(PixelError, match="truncated"):
        open_picture(path, "US")


def jp2(codestream: bytes, *boxes: bytes) -> bytes:
    """A JP2 file with further boxes in its header (T.800 I.4, I.5)."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", 360, 480, 1, 7, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17)) + b"".join(boxes)
    kind = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return box(b"jP  ", b"\r\n\x87\n") + kind + box(b"jp2h", header) + box(b"jp2c", codestream)


@pytest.mark.parametrize("palette", [False, True])
def test_no_decoder_reads_a_jp2_file_around_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, palette: bool
) -> None:
    path = write_dicom(tmp_path / "jp2.dcm", echo()[None], JPEG2000Lossless)
    dataset = dcmread(path)
    codestream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    boxes = [struct.pack(">I4sHBB", 13, b"pclr", 1, 1, 7) + b"\xff"] if palette else []
    dataset.PixelData = encapsulate([jp2(codestream, *boxes)])
    dataset.save_as(path)
    read: list[bytes] = []

    def decode(name: str, frame: bytes, length: int) -> memoryview:
        read.append(frame)
        return decoder.DECODER.decode(name, frame, length)

    monkeypatch.setattr(codestreams, "DECODER", SimpleNamespace(decode=decode, start=lambda: None))
    if palette:
        with pytest.raises(PixelError, match="JP2 file with colours of its own"):
            open_dicom(path).stored()
        assert read == []
    else:
        assert np.array_equal(open_dicom(path).stored(), echo())
        assert [frame[:4] for frame in read] == [b"\xff\x4f\xff\x51"]


def test_a_decoder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(CodestreamFault, match="gif"):
        codestreams.DECODER.decode("gif", b"", 1)
