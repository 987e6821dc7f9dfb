"""Patients whom a person registered; scores of pictures that a person tries; doubts of patients."""

import sqlalchemy as sa
from alembic import op

from dicom_node.base.dicom.identity import with_doubts

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "registered_patient",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("registered_at", sa.DateTime(), nullable=False),
        sa.Column("registered_by", sa.String(length=64), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registered_patient")),
        sa.UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_registered_patient_id"),
        sqlite_autoincrement=True,
    )
    op.add_column("job", sa.Column("scores", sa.JSON(), nullable=True))
    add_doubts(op.get_bind())


def add_doubts(connection: sa.Connection) -> None:
    """Add to the patients of 0.1.0's images which of their values several persons may share."""
    study = sa.table("study", sa.column("id"), sa.column("patient_id"))
    image = sa.table("instance", sa.column("study_id"), sa.column("patient"))
    chosen = sa.select(image.c.study_id, image.c.patient, study.c.patient_id).distinct()
    of_old = chosen.join_from(image, study, image.c.study_id == study.c.id).where(image.c.patient != "")
    for study_id, patient, patient_id in connection.execute(of_old).all():
        same = image.c.study_id == study_id, image.c.patient == patient
        connection.execute(sa.update(image).where(*same).values(patient=with_doubts(patient, patient_id)))
