"""This node's cleaning on a folder: ``ours.py GIVEN MADE``; compare.py starts it."""

import json
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom

given, made = map(Path, sys.argv[1:])
for path in sorted(given.glob("*.dcm")):
    began, withheld = time.perf_counter(), False
    try:
        frame = clean(open_dicom(path), lambda _share, _what: None).image.frames[0]
    except CleaningFailed:
        withheld = True
    else:
        Image.fromarray(frame).save(made / f"{path.stem}.png")
    row = {"file": path.name, "seconds": time.perf_counter() - began, "withheld": withheld}
    print(json.dumps(row), flush=True)
