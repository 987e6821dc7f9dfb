"""HL7 messages, Patient IDs that they replaced, and studies that wait for corrected images."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "hl7_message",
        sa.Column("id", number, nullable=False),
        sa.Column("sender", sa.String(length=64), nullable=False),
        sa.Column("application", sa.String(length=64), nullable=False),
        sa.Column("control_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("done_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hl7_message")),
        sa.UniqueConstraint("sender", "application", "control_id", name="uq_hl7_message_once"),
    )
    for column in ("received_at", "state"):
        op.create_index(op.f(f"ix_hl7_message_{column}"), "hl7_message", [column])
    op.create_table(
        "replaced_patient",
        sa.Column("id", number, nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("authority", sa.String(length=255), nullable=False),
        sa.Column("survivor", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replaced_patient")),
        sa.UniqueConstraint("patient_id", "authority", name="uq_replaced_patient_once"),
    )
    op.create_table(
        "awaited_correction",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("former_id", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("authority", sa.String(length=255), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("after_delivery", sa.BigInteger(), nullable=False),
        sa.Column("last_delivery", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_awaited_correction_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_awaited_correction")),
    )
    for column in ("state", "study_id"):
        op.create_index(op.f(f"ix_awaited_correction_{column}"), "awaited_correction", [column])
