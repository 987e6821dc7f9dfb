"""An object that is to be built. Its UIDs are known before, so that one that exists is not built again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.context import BuiltObject, ResultContext
from dicom_node.results.common.identity import object_uid, series_uid
from dicom_node.results.common.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """``make`` builds the data set under the SOP Instance UID that it is given.

    ``uid_parts`` and ``series_parts`` tell apart several objects, or series, of one kind.
    """

    kind: ResultKind
    sop_class_uid: str
    sources: Sequence[Source]
    make: Callable[[str], Dataset]
    uid_parts: tuple[str, ...] = ()
    series_parts: tuple[str, ...] = ()

    def described(self, context: ResultContext) -> BuiltObject:
        """The object without its bytes."""
        return BuiltObject(
            kind=self.kind,
            sop_instance_uid=object_uid(context, self.kind, self.sources, *self.uid_parts),
            sop_class_uid=str(self.sop_class_uid),
            series_instance_uid=series_uid(context, self.kind, self.sources[0], *self.series_parts),
            supersedes=context.supersedes if self.kind is ResultKind.SR else "",
            data=None,
            burned_in_boxes=context.burned_in_boxes,
        )
