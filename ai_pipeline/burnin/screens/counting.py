"""What is counted of the screen of a device: at which place which text stood for how many patients.

Neither a text nor a patient is stored: of a text a keyed hash, and of the patients for whom it stood bits of
a map. Which bit a patient has follows from key, place, text and patient, so the maps of two texts cannot be
joined, and a map with 20 bits was made by 20 patients or more. Only then the text itself is stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from ai_pipeline.burnin.devices.forms import LONGEST, form_of, plain, says_when, says_whose
from ai_pipeline.burnin.devices.profile import LEAST_CONFIDENCE, is_at
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.burnin.screens.offers import Offer, forget_of_somebody, offers_of
from ai_pipeline.burnin.screens.places import Form, Place
from ai_pipeline.contract import Reading
from ai_pipeline.images.identity import HeaderIdentity

FEWEST_PATIENTS: Final = 20
"""Different patients for whom a text stood at a place, from which the text itself is stored."""
MOST_PLACES, MOST_FORMS, MOST_READINGS = 300, 16, 400
"""Places of a screen, forms of text at a place, and readings of one image that are counted, at most."""
LARGEST: Final = 2 << 20
"""Bytes of what is stored of one screen, at most."""
_VERSION: Final = 1
_STORED = TypeAdapter(tuple[Literal[1], int, list[Place]])
_BITS: Final = 128
ENOUGH: Final = 120
"""Bits of the patients of a screen from which counting ends: some 350 patients."""


class ScreenCounts:
    """Counts of the texts on the screen of one device, of so many pixel ``rows``. ``key``: secret of the
    site, or of one run.
    """

    def __init__(self, key: bytes, rows: int) -> None:
        self._key, self._rows = key, rows
        self._patients = 0
        self.places: list[Place] = []

    @property
    def patients(self) -> int:
        """The number of different patients, at least; counted exactly to about 20."""
        return self._patients.bit_count()

    @property
    def is_complete(self) -> bool:
        """Whether so many patients were counted that nothing more is learnt."""
        return self.patients >= ENOUGH

    def offers(self) -> list[Offer]:
        """What a person is asked about the screen."""
        return offers_of(self.places, self._rows)

    def add(self, patient: str, readings: Sequence[Reading], identity: HeaderIdentity) -> bool:
        """Count what was read in one image of a ``patient``, named by a text that is the same for all images
        of this patient; ``identity``: that of the image's header. Returns whether anything changed.
        """
        if self.is_complete:
            return False
        before = self.to_bytes()
        self._patients |= self._bit("patients", patient)
        for reading in readings[:MOST_READINGS]:
            text = plain(reading.text)
            if text and reading.confidence >= LEAST_CONFIDENCE and len(text) <= LONGEST:
                self._count(patient, reading, text, identity)
        forget_of_somebody(self.places, self._rows)
        return before != self.to_bytes()

    def _count(self, patient: str, reading: Reading, text: str, identity: HeaderIdentity) -> None:
        """Count one ``text``, without blanks. Of what says whose the image is, only the place counts, and
        that it is no setting.
        """
        left, top, right, bottom = (round(edge) for edge in reading.bounds)
        place = self._place((left, top, right, bottom))
        name = ",".join(map(str, place.box))
        is_date, is_named = says_when(text), identity.is_in(reading.text)
        if is_date or is_named:
            place.identity |= self._bit(f"{name} identity", patient)
        if is_date or says_whose(reading.text):
            return
        form = self._form(place, self._hash(f"{name} {form_of(text).casefold()}"))
        bit = self._bit(f"{name} {form.hash}", patient)
        if is_named:
            form.named |= bit
            return
        form.patients |= bit
        this = self._hash(f"{name} text {text.casefold()}")
        form.varies |= this != (form.first or this)
        form.first = form.first or this
        if form.patients.bit_count() >= FEWEST_PATIENTS:
            form.text = form_of(text) if form.varies else text

    def _place(self, box: Box) -> Place:
        """The place of a box, a new one if none is known; of too many the rarest goes."""
        for place in self.places:
            if is_at(box, place.box):
                return place
        if len(self.places) >= MOST_PLACES:
            self.places.remove(min(self.places, key=lambda place: place.count))
        self.places.append(Place(box))
        return self.places[-1]

    def _form(self, place: Place, digest: str) -> Form:
        """The form with this hash at a place, a new one if it is not known; of too many the rarest goes."""
        for form in place.forms:
            if form.hash == digest:
                return form
        if len(place.forms) >= MOST_FORMS:
            place.forms.remove(min(place.forms, key=lambda form: form.count))
        place.forms.append(Form(digest))
        return place.forms[-1]

    def _hash(self, text: str) -> str:
        """The keyed hash of a text, 64 bits as hex."""
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]

    def _bit(self, what: str, patient: str) -> int:
        """The bit of a patient in the map of ``what``."""
        return 1 << int(self._hash(f"patient {what} {patient}"), 16) % _BITS

    def to_bytes(self) -> bytes:
        """What is stored: JSON."""
        return _STORED.dump_json((_VERSION, self._patients, self.places))

    @classmethod
    def from_bytes(cls, key: bytes, rows: int, stored: bytes) -> ScreenCounts:
        """Read what :meth:`to_bytes` wrote; what is damaged, too large or of another version counts as
        nothing.
        """
        counts = cls(key, rows)
        with suppress(ValidationError):
            _, counts._patients, counts.places = _STORED.validate_json(
                stored if len(stored) <= LARGEST else b""
            )
        return counts
