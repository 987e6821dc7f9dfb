"""Deliveries that a person discarded have the reason"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("discarded_because", sa.String(length=255), nullable=False, server_default="")
        )
