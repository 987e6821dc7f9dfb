"""DICOMweb as peers really write it (PS3.18): of JSON and XML only what is asked for is read, so that nothing
else in an answer can spoil it.
"""

from collections.abc import Collection, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import quiet_pydicom

_LONGEST_PREAMBLE = 2**16  # bytes
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def tag_of(keyword: str) -> str:
    """The tag of an attribute as DICOM JSON has it, such as 0020000D."""
    return f"{tag_for_keyword(keyword):08X}"


def values(row: Any, keyword: str) -> list[Any]:
    """The values of an attribute of the JSON object ``row``; a value without its list counts as one. Raises
    TypeError for what is no attribute.
    """
    tag = tag_of(keyword)
    if not isinstance(row, Mapping):
        raise TypeError("no data set")
    attribute = row.get(tag, row.get(tag.lower()))
    if attribute is None:
        return []
    if not isinstance(attribute, Mapping):
        raise TypeError("no attribute")
    found = attribute.get("Value")
    return found if isinstance(found, list) else [] if found is None else [found]


def texts(row: Any, keyword: str) -> list[str]:
    """The values of an attribute as texts; the groups of a name are joined by "=". Raises TypeError."""
    return [_text(value) for value in values(row, keyword)]


def _text(value: Any) -> str:
    """One value as text, "" for null. Raises TypeError for what is neither text, number nor name."""
    if isinstance(value, Mapping):
        return "=".join(_text(value.get(group)) for group in _NAME_GROUPS).rstrip("=")
    if not isinstance(value, str | int | float | None):
        raise TypeError("no text")
    return "" if value is None else str(value)


def read_dataset(row: Any, keywords: Collection[str]) -> tuple[Dataset, set[str]]:
    """The attributes with these keywords, at any depth, of a JSON object; and those that cannot be read.

    Raises TypeError if it is no object.
    """
    dataset, unread = Dataset(), set[str]()
    if not isinstance(row, Mapping):
        raise TypeError("no data set")
    with quiet_pydicom():
        for keyword in keywords:
            vr = dictionary_VR(keyword)
            try:
                found: list[Any] = []
                for value in values(row, keyword):
                    if vr == "SQ":
                        item, missing = read_dataset(value or {}, keywords)
                        unread |= missing
                        found.append(item)
                    else:
                        found.append(int(float(_text(value))) if vr == "US" else _text(value))
                if found:
                    is_one = vr != "SQ" and (len(found) == 1 or vr == "US")  # each number here is alone
                    setattr(dataset, keyword, found[0] if is_one else found)
            except (OverflowError, TypeError, ValueError):
                unread.add(keyword)
    return dataset, unread


def from_xml(model: Element) -> dict[str, Any]:
    """A Native DICOM Model, or an item of it, as the JSON object that says the same; of names of persons it
    is not.
    """
    return {
        attribute.get("tag", ""): {
            "Value": [from_xml(value) if len(value) else (value.text or "").strip() for value in attribute]
        }
        for attribute in model
    }


class Preamble:
    """Removes what stands before the first boundary of a multipart message (RFC 2046 5.1) that arrives in
    pieces: it means nothing.
    """

    def __init__(self, boundary: bytes) -> None:
        """Prepare for one message; ``boundary``: as its Content-Type has it."""
        self._line = b"\r\n--" + boundary
        self._waiting: bytes | None = b"\r\n"

    def removed(self, data: bytes) -> bytes:
        """The next bytes of the message without the preamble. Raises ValueError if it is too long."""
        if self._waiting is None:
            return data
        before, line, rest = (self._waiting + data).partition(self._line)
        if len(before) > _LONGEST_PREAMBLE:
            raise ValueError("no boundary")
        self._waiting = None if line else before
        return line[2:] + rest
