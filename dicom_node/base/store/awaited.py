"""The tables of answers that are awaited from vendors' AI servers, and of the objects that came for them."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.base.lifecycle import AwaitedState
from dicom_node.base.store.mapping import Base, ShortText, StudyMixin, Tried, Uid


class AwaitedAnswer(StudyMixin, Tried):
    """Table: one study that a job sends to a vendor's AI, until its answer is there or no longer
    awaited. Of several rows of a job the newest counts.
    """

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    peer: Mapped[ShortText]
    study_instance_uid: Mapped[Uid] = mapped_column(index=True)  # as it is sent
    state: Mapped[AwaitedState] = mapped_column(default=AwaitedState.WAITING, index=True)
    began_at: Mapped[datetime]
    limit_at: Mapped[datetime]  # until then it must be sent; once it is, answered
    last_at: Mapped[datetime | None]  # when its last object was received
    ended_at: Mapped[datetime | None]  # when it was given up


class AnswerObject(Base):
    """Table: a received object that is part of an answer."""

    received_id: Mapped[int] = mapped_column(ForeignKey("received_object.id"), primary_key=True)
    awaited_id: Mapped[int] = mapped_column(ForeignKey("awaited_answer.id"), index=True)
