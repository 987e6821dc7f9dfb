"""An AI as an HTTP service behind the node, for trying out: it blackens the upper half of each image.

python examples/ai_service.py 8042 [http://127.0.0.1:8080/answers]   (where the node takes what is sent)
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.request import Request, urlopen

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

MOST_BYTES, JSON = 2 << 30, "application/dicom+json"
KIND = 'multipart/related; type="application/dicom"; boundary="an-answer"'
RESULTS: dict[str, list[Dataset]] = {}  # by idempotency key: who asks again gets the same objects


def analyse(image: Dataset, key: str) -> Dataset:
    """Return a derived image. Patient, study and frame of reference stay; series and object are new."""
    uid = generate_uid(entropy_srcs=[key, image.SOPInstanceUID])
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[key, "series"])
    image.ImageType, image.ManufacturerModelName = ["DERIVED", "SECONDARY"], "Half"
    image.PixelData = bytes(half := len(image.PixelData) // 2) + image.PixelData[half:]
    return image


def multipart(objects: list[Dataset]) -> tuple[str, bytes]:
    """Return media type and body of multipart/related with these objects as Part 10 files."""
    body = BytesIO()
    for one in objects:
        body.write(b"\r\n--an-answer\r\nContent-Type: application/dicom\r\n\r\n")
        one.save_as(file := BytesIO())
        body.write(file.getvalue())
    return KIND, body.getvalue() + b"\r\n--an-answer--"


class Service(BaseHTTPRequestHandler):
    """Takes studies by STOW-RS, and has results by QIDO-RS and WADO-RS if it does not return them."""

    def do_POST(self) -> None:
        """POST …/studies/{study}: all images of one study."""
        length = int(self.headers.get("Content-Length") or 0)
        boundary = self.headers.get_param("boundary", header="Content-Type")
        key = self.headers.get("Idempotency-Key")
        if not (boundary and key and 0 < length <= MOST_BYTES):
            return self.answer(400, JSON, b"{}")
        parts = (b"\r\n" + self.rfile.read(length)).split(f"\r\n--{boundary}".encode())[1:-1]
        images = [dcmread(BytesIO(part.partition(b"\r\n\r\n")[2])) for part in parts]
        results = RESULTS[key] = RESULTS.get(key) or [analyse(image, key) for image in images]
        kind, body = multipart(results)
        if token := self.headers.get("Answer-Token"):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
            urlopen(Request(f"{sys.argv[2]}/studies", body, headers), timeout=60).close()
        is_wanted = self.headers.get("Accept", "").startswith("multipart/related")
        return self.answer(200, kind, body) if is_wanted else self.answer(200, JSON, b"{}")

    def do_GET(self) -> None:
        """GET …/studies/{study}/instances: a list. GET …/series/{series}/instances/{instance}: an object."""
        words = self.path.partition("?")[0].split("/")
        there = [one for results in RESULTS.values() for one in results if one.StudyInstanceUID in words]
        if words[-1] == "instances":
            uids = [[one["SOPInstanceUID"], one["SeriesInstanceUID"]] for one in there]
            body = [{f"{e.tag:08X}": {"vr": "UI", "Value": [e.value]} for e in row} for row in uids]
            return self.answer(200, JSON, json.dumps(body).encode())
        return self.answer(200, *multipart([one for one in there if one.SOPInstanceUID == words[-1]]))

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
