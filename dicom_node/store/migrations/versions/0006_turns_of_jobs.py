"""Jobs have an estimate of their work and a turn, so that short ones overtake long ones"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cost_seconds", sa.Double(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("turn_at", sa.DateTime(), nullable=True))
    op.execute(sa.text("UPDATE job SET turn_at = run_at"))
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.alter_column("turn_at", existing_type=sa.DateTime(), nullable=False)
