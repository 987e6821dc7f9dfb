"""UIDs of results, derived from the result's parts: the same parts always give the same UID."""

import uuid

from dicom_node import __version__

# UUIDv5 of this name space; changing it would make every old result foreign.
_NAMESPACE = uuid.UUID("6c7f2f5e-6f0b-5d1c-9b62-0f6a4b5c9e10")


def derived_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2), derived from all inputs of an object. Parts may contain any text."""
    name = "\x1f".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
"""(0002,0012) and PS3.7 D.3.3.2: this program, on associations and in the files that it writes."""
IMPLEMENTATION_VERSION_NAME = f"DICOMAINODE_{'_'.join(__version__.split('.')[:2])}"[:16]
"""(0002,0013) and PS3.7 D.3.3.2.3."""
