"""Choose the 66 test frames whose burned-in marks are drawn by hand; writes frames.csv.

Run once, before anything was drawn: `python tests/data/marks/choose.py --data ../shared/data`.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

HERE = Path(__file__).parent
SEED = 4
FRAMES = 66
FETAL = 3
BREAST_PLAIN = 2
YELLOW_ABOVE = 30  # manifest's yellow_overlay_px: pixels on the original, larger frame
# Seen on a contact sheet of all 27 us_breast test frames: the only ones with text inside the picture.
BREAST_LABELLED = ("benign_244.png", "benign_306.png", "benign_362.png", "normal_25.png")

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    frames = choose(parser.parse_args().data)
    with (HERE / "frames.csv").open("w", newline="") as out:
        writer = csv.DictWriter(
            out, ["number", "set", "file", "label", "stratum", "drawn_by"], lineterminator="\n"
        )
        writer.writeheader()
        for number, frame in enumerate(frames, 1):
            writer.writerow({"number": number, **frame, "drawn_by": "A" if number <= FRAMES // 2 else "B"})


def choose(data: Path) -> list[Row]:
    """All strata, then shuffled, so that either half of the list is alike."""
    chance = random.Random(SEED)
    frames = _breast(data, chance) + _fetal(data, chance)
    groups: set[str] = set()
    ovarian = _test_rows(data, "us_ovarian")
    chance.shuffle(ovarian)
    for row in ovarian:
        if int(row["yellow_overlay_px"]) <= YELLOW_ABOVE and row["group"] not in groups:
            groups.add(row["group"])
            frames.append(_frame("us_ovarian", row, "no yellow"))
    frames += _yellow_by_turns(ovarian, groups, FRAMES - len(frames))
    chance.shuffle(frames)
    return frames


def _breast(data: Path, chance: random.Random) -> list[Row]:
    rows = _test_rows(data, "us_breast")
    labelled = [row for row in rows if Path(row["file"]).name in BREAST_LABELLED]
    plain = chance.sample([row for row in rows if row not in labelled], BREAST_PLAIN)
    return [_frame("us_breast", row, "labelled") for row in labelled] + [
        _frame("us_breast", row, "plain") for row in plain
    ]


def _fetal(data: Path, chance: random.Random) -> list[Row]:
    return [
        _frame("us_fetal_head", row, "any") for row in chance.sample(_test_rows(data, "us_fetal_head"), FETAL)
    ]


def _yellow_by_turns(rows: list[Row], groups: set[str], count: int) -> list[Row]:
    """One frame of each label in turn, at most one of a group of near-duplicates."""
    waiting = {
        label: [row for row in rows if row["label"] == label] for label in sorted({r["label"] for r in rows})
    }
    taken: list[Row] = []
    while len(taken) < count and any(waiting.values()):
        for queue in waiting.values():
            while queue and len(taken) < count:
                row = queue.pop()
                if row["group"] in groups or int(row["yellow_overlay_px"]) <= YELLOW_ABOVE:
                    continue
                groups.add(row["group"])
                taken.append(_frame("us_ovarian", row, "yellow"))
                break
    return taken


def _test_rows(data: Path, name: str) -> list[Row]:
    with (data / name / "manifest.csv").open(newline="") as source:
        return [row for row in csv.DictReader(source) if row["split"] == "test"]


def _frame(name: str, row: Row, stratum: str) -> Row:
    return {"set": name, "file": row["file"], "label": row.get("label", ""), "stratum": stratum}


if __name__ == "__main__":
    main()
