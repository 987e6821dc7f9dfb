"""Memory of a frame is expensive to get: the next one has it too, emptied, where nobody else can have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_pipeline.images import decoder
from ai_pipeline.images.decoder import Decoder
from tests.unit.ai_pipeline.images import test_decoder, test_decoder_use

hostile = test_decoder.hostile


def test_the_memory_of_a_frame_serves_the_next_one_when_nobody_looks_at_it(tmp_path: Path) -> None:
    one = Decoder()
    if one.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")
    (first, first_samples), (second, second_samples) = (
        test_decoder_use._picture(1),
        test_decoder_use._picture(2),
    )

    samples = one.decode("picture", first, 360 * 480)
    before = one._kept
    other = one.decode("picture", second, 360 * 480)
    assert one._kept is not before  # somebody looks at it yet
    assert (bytes(samples), bytes(other)) == (first_samples, second_samples)
    last = one._kept
    del samples, other
    assert bytes(one.decode("picture", first, 360 * 480)) == first_samples
    assert one._kept is last
    one.close()
    assert one._kept is None


def test_in_the_memory_of_a_frame_nothing_is_left_of_the_last_one(
    tmp_path: Path, hostile: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = test_decoder.taken_over(tmp_path, "lies")
    script = tmp_path / "hostile.py"
    looks = (
        "mapped = []\n"
        "class Mmap(decoder_process.mmap.mmap):\n"
        "    def __init__(self, *_):\n"
        "        mapped.append(self)\n"
        "decoder_process.mmap.mmap = Mmap\n"
        "def looks(frame):\n"
        "    memory = mapped[-1]\n"
        "    if any(memory[24 + len(frame):]):\n"
        "        raise ValueError('there is something')\n"
        "    memory[24 + len(frame):] = b'x' * (len(memory) - 24 - len(frame))\n"
        "    return b'y' * (360 * 480)\n"
    )
    code = script.read_text().replace("decoder_process.main", f"{looks}decoder_process.main")
    script.write_text(code.replace('"openjpeg": lies', '"openjpeg": looks'))
    if hostile.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")

    for _ in range(3):
        image.forget()
        assert set(image.stored().ravel()) == {ord("y")}
        assert hostile._kept is not None


def test_where_a_process_could_outlive_its_frame_no_memory_is_used_again(
    tmp_path: Path, hostile: Decoder
) -> None:
    test_decoder.taken_over(tmp_path, "lies")
    script = tmp_path / "hostile.py"
    bare = "decoder_process.seccomp.only_compute = lambda: False\n"
    script.write_text(script.read_text().replace("decoder_process.main", f"{bare}decoder_process.main"))

    assert test_decoder.decodes(tmp_path)
    assert hostile._kept is None


@pytest.mark.parametrize("ends", ["too large", "interrupted"])
def test_memory_that_is_not_for_the_next_frame_is_given_back(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bytearray:
        raise KeyboardInterrupt

    one, files = Decoder(), lambda: len(list(Path("/proc/self/fd").iterdir()))
    one.start()
    before = files()
    if ends == "too large":
        monkeypatch.setattr(decoder, "_MOST_KEPT", 1000)
        one.decode("picture", test_decoder_use._picture(1)[0], 360 * 480)
    else:
        before -= 1  # its socket
        monkeypatch.setattr(decoder, "_received", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.decode("picture", test_decoder_use._picture(1)[0], 360 * 480)
    assert one._kept is None
    assert files() == before
    one.close()
