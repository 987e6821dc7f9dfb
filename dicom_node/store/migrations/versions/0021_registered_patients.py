"""Patients who are registered for uploads"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "registered_patient",
        sa.Column("id", number, nullable=False),
        sa.Column("patient_id", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("registered_at", sa.DateTime(), nullable=False),
        sa.Column("registered_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registered_patient")),
        sa.UniqueConstraint("patient_id", name=op.f("uq_registered_patient_patient_id")),
    )
