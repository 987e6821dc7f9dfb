"""examples/compare judges what can still be read: by programs that do nothing and fill all, and by ours."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from ai_training.ultrasound.legible import Token, engines
from examples.compare import compare
from tests.unit.ai_pipeline.phantoms import burn, echo, rgb

NAME, RESULT = "KOWALSKA MARIA", "BPD 48.2 mm"
NOTHING = "Image.fromarray(dcmread(path).pixel_array)"
ALL = "Image.fromarray(dcmread(path).pixel_array * 0 + 255)"
PROGRAM = """
import json, sys
from pathlib import Path
from PIL import Image
from pydicom import dcmread
given, made = map(Path, sys.argv[1:])
for path in given.glob("*.dcm"):
    IMAGE.save(made / f"{path.stem}.png")
    print(json.dumps({"file": path.name, "seconds": 1.5, "withheld": WITHHELD}))
"""


def token(text: str, left: int, top: int) -> Token:
    corners = np.array([[0, 0], [190, 0], [190, 24], [0, 24]], np.float32) + np.float32([left, top])
    return Token(compare.folded(text), compare.words_of(text), corners, 1)


@pytest.fixture(scope="module")
def sample() -> compare.Sample:
    """A head line with a name, and a result below."""
    picture = rgb(echo(3, (240, 320)))
    picture[:40] = picture[205:] = 0
    picture = burn(picture, NAME, (8, 8), (255, 255, 255), 18)
    picture = burn(picture, RESULT, (8, 212), (255, 255, 255), 18)
    return compare.Sample("one", picture, (token(NAME, 6, 6),), (token(RESULT, 6, 210),), (NAME,))


def judged(sample: compare.Sample, script: str, folder: Path) -> compare.Count:
    compare.write(sample, folder / "given", sample.header)
    made = folder / "made"
    rows = compare.cleaned_by(script, compare.sys.executable, folder / "given", made)
    return compare.judged([sample], rows, made)


@pytest.mark.parametrize(
    ("image", "withheld", "left", "changed"),
    [(NOTHING, False, 1, 0.0), (ALL, False, 0, 1.0), (NOTHING, True, None, None)],
    ids=["nothing", "all", "withheld"],
)
def test_a_program_is_judged_by_what_it_leaves(
    sample: compare.Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    withheld: bool,
    left: int | None,
    changed: float | None,
) -> None:
    monkeypatch.setattr(compare, "HERE", tmp_path)
    text = PROGRAM.replace("IMAGE", image).replace("WITHHELD", str(withheld))
    (tmp_path / "program.py").write_text(text)
    count = judged(sample, "program.py", tmp_path)
    assert count.seconds == [1.5]
    assert count.withheld == withheld
    names = [engine.name for engine in engines()]
    assert count.left == ({} if left is None else dict.fromkeys(names, left))
    assert count.other_left == ({} if left is None else dict.fromkeys(names, left))
    assert count.changed == ([] if changed is None else pytest.approx([changed], abs=0.1))


def test_ours_leaves_the_result_and_not_the_name(sample: compare.Sample, tmp_path: Path) -> None:
    count = judged(sample, "ours.py", tmp_path)
    assert set(count.left.values()) == {0}
    assert count.other_left == count.other_legible
    row = compare.row_of("this node", "drawn", count)
    assert row.startswith("| this node | drawn | 0 of 1; 0 of 1 | 1 of 1; 1 of 1 | ")


def test_the_header_holds_every_text_that_was_drawn(sample: compare.Sample, tmp_path: Path) -> None:
    compare.write(sample, tmp_path, ("Anna\\Bo", "second=text"))
    dataset = dcmread(tmp_path / "one.dcm")
    assert str(dataset.PatientName) == "Anna Bo"
    assert str(dataset.OtherPatientNames) == "second text"
    assert np.array_equal(dataset.pixel_array, sample.picture)
