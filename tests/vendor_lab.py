"""A vendor's AI server on real sockets: it takes studies by C-STORE and answers by C-STORE, well or badly."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import evt

from tests.modality import part_10
from tests.node_lab import rule, site_config, store
from tests.pacs_lab import Pacs, run_pacs

Answer = Callable[[Sequence[Dataset]], Sequence[Dataset]]
"""From the images of a study to what the vendor sends back."""


def derived(image: Dataset, **other: object) -> Dataset:
    """An image that the vendor derives: new UIDs, other pixels; ``other``: attributes it gets besides."""
    made = dcmread(BytesIO(part_10(image)))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    made.Manufacturer, made.ManufacturerModelName = "Vendor Inc", "Finder 3"
    pixels = np.frombuffer(made.PixelData, np.uint16).copy()
    pixels[: pixels.size // 2] = 0
    made.PixelData = pixels.tobytes()
    for keyword, value in other.items():
        setattr(made, keyword, value)
    return made


def derives(images: Sequence[Dataset]) -> list[Dataset]:
    """One derived image for each."""
    return [derived(image) for image in images]


@dataclass
class Vendor(Pacs):
    """``whole``: images of a study after which it answers; ``answers``: what, None: nothing ever;
    ``after``: seconds that it works; ``calling``: the AE title under which it answers; ``node``: the port
    that it answers to.
    """

    ae_title: str = "VENDOR"
    whole: int = 2
    answers: Answer | None = derives
    after: float = 0.1
    calling: str = "VENDOR"
    node: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        """It looks after each association whether a study is whole."""
        return [*super().handlers(), (evt.EVT_RELEASED, self._on_release)]

    def images(self, study: str = "") -> list[Dataset]:
        """What it got, of this study or of all."""
        found = []
        for uid, data in list(self.stored.items()):
            image = dcmread(BytesIO(data), force=True)
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
            image.file_meta.MediaStorageSOPInstanceUID = uid
            if study in ("", image.StudyInstanceUID):
                found.append(image)
        return found

    def send(self, objects: Sequence[Dataset], calling: str = "") -> list[int | None]:
        """Send these to the node; the status of each."""
        return store(self.node, objects, calling or self.calling)

    def send_until_taken(self, objects: Sequence[Dataset]) -> None:
        """Send until the node has acknowledged each, as a server does that keeps a queue."""
        rest = list(objects)
        while rest:
            statuses = self.send(rest)
            rest = [one for one, status in zip(rest, statuses, strict=True) if status != 0]
            threading.Event().wait(0.3 if rest else 0)

    def _on_release(self, _event: evt.Event) -> None:
        for study in {str(image.StudyInstanceUID) for image in self.images()}:
            threading.Timer(self.after, self._answer, (study,)).start()

    def _answer(self, study: str) -> None:
        images = self.images(study)
        with self._lock:
            if self.answers is None or len(images) < self.whole or study in self.answered:
                return
            self.answered[study] = len(images)
        self.send_until_taken(self.answers(images))


def remote_rule(name: str = "vendor", options: str = "deadline = 0.5", modality: str = "CT") -> str:
    """A rule that sends to the peer of this name."""
    given = f'peer = "{name}", model = "finder", version = "3", {options}'
    return rule("remote", f'modality = "{modality}"', given, name=f"ai-{name}")


def vendor_peer(vendor: Pacs, name: str = "vendor", more: str = "") -> str:
    """The peer of a vendor, as TOML."""
    return (
        f'[[peers]]\nname = "{name}"\nae_title = "{vendor.ae_title}"\nhost = "127.0.0.1"\n'
        f'port = {vendor.port}\nmay = ["send", "receive"]\n{more}\n'
    )


def vendor_site(pacs: Pacs, *vendors: Vendor, rules: str = "", **more: Any) -> str:
    """Configuration of a node with these vendors, and a rule for the first unless ``rules`` are given."""
    peers = "".join(vendor_peer(one, one.ae_title.lower()) for one in vendors)
    given = {"results": ("image", "sr"), "senders": ("CT1",), "quiet": 0.5, "lease": 5} | more
    return site_config(pacs.port, (rules or remote_rule()) + peers, **given)


@contextmanager
def run_vendor(vendor: Vendor) -> Iterator[Vendor]:
    """Serve as long as the scope lasts."""
    with run_pacs(vendor):
        yield vendor
