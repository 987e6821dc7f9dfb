"""multipart/related answers in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dicom_node.scu.multipart import LONGEST_HEAD, MalformedMultipart, Parts, boundary_of

PARTS = [b"first\r\n--not a boundary", b"", b"\r\n" * 50, bytes(range(256)) * 300]
MESSAGE = b"a preamble\r\n" + b"".join(
    b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in PARTS
)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10**6])
def test_each_part_comes_whole(size: int) -> None:
    found = [b"".join(part) for part in Parts(pieces(MESSAGE + b"--b0--\r\n", size), b"b0")]
    assert found == PARTS


def test_a_part_that_is_not_read_is_passed_over() -> None:
    assert len(list(Parts(pieces(MESSAGE + b"--b0--", 100), b"b0"))) == len(PARTS)


@pytest.mark.parametrize("cut", [5, 30, 70, len(MESSAGE)])
def test_an_answer_that_ends_early_is_no_whole_one(cut: int) -> None:
    with pytest.raises(MalformedMultipart):
        [b"".join(part) for part in Parts(pieces(MESSAGE[:cut], 10), b"b0")]


def test_headers_that_do_not_end_are_cut_off() -> None:
    def endless() -> Iterator[bytes]:
        yield b"--b0\r\n"
        for number in range(LONGEST_HEAD):
            assert number < LONGEST_HEAD / 2
            yield b"X: 1\r\n"

    with pytest.raises(MalformedMultipart, match="do not end"):
        [b"".join(part) for part in Parts(endless(), b"b0")]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', b"a b"),
        ("multipart/related; boundary=xyz; type=application/dicom", b"xyz"),
    ],
)
def test_the_boundary_is_read(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("content_type", ["", "text/html", "multipart/related", "text/html; boundary=a"])
def test_what_is_not_multipart_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedMultipart):
        boundary_of(content_type)
