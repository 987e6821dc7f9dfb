"""An AI as an HTTP service behind the node, for trying out: it blackens the upper half of each image.

python examples/ai_service.py 8042
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

MOST_BYTES = 2 << 30
RESULTS: dict[str, list[Dataset]] = {}
"""What was answered, by idempotency key: who asks again gets the same objects."""


def analyse(image: Dataset, key: str) -> Dataset:
    """Return a derived image. Patient, study and frame of reference stay; series and object are new."""
    source = image.SOPInstanceUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[key, source]
    )
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[key, "series"])
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.Manufacturer, image.ManufacturerModelName, image.SeriesDescription = (
        "Example",
        "Half",
        "Upper half black",
    )
    pixels = bytearray(image.PixelData)
    pixels[: len(pixels) // 2] = bytes(len(pixels) // 2)
    image.PixelData = bytes(pixels)
    return image


def multipart(objects: list[Dataset], boundary: str) -> bytes:
    """Return the body of multipart/related with these objects as Part 10 files."""
    body = BytesIO()
    for one in objects:
        body.write(f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
        one.save_as(file := BytesIO())
        body.write(file.getvalue())
    body.write(f"\r\n--{boundary}--\r\n".encode())
    return body.getvalue()


class Service(BaseHTTPRequestHandler):
    """Takes a study by STOW-RS, and returns the results in the answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """POST …/studies/{study}: all images of one study."""
        length = int(self.headers.get("Content-Length") or 0)
        boundary = self.headers.get_param("boundary", header="Content-Type")
        key = self.headers.get("Idempotency-Key")
        if not (boundary and key and 0 < length <= MOST_BYTES):
            return self.answer(400, "application/json", json.dumps({"error": "no study"}).encode())
        parts = (b"\r\n" + self.rfile.read(length)).split(f"\r\n--{boundary}".encode())[1:-1]
        if key not in RESULTS:
            images = [dcmread(BytesIO(part.partition(b"\r\n\r\n")[2])) for part in parts]
            RESULTS[key] = [analyse(image, key) for image in images]
        kind = f'multipart/related; type="application/dicom"; boundary="{key}"'
        return self.answer(200, kind, multipart(RESULTS[key], key))

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
