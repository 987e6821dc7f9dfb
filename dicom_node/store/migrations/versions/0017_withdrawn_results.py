"""Results that were withdrawn"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "withdrawal",
        sa.Column("result_id", number, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("because", sa.String(length=255), nullable=False),
        sa.Column("note_id", number, nullable=True),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_withdrawal_result_id")),
        sa.ForeignKeyConstraint(["note_id"], ["result.id"], name=op.f("fk_withdrawal_note_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_withdrawal")),
    )
    with op.batch_alter_table("withdrawal", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_withdrawal_note_id"), ["note_id"], unique=False)
