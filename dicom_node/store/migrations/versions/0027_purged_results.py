"""Results say whether their file was deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    with op.batch_alter_table("result", schema=None) as batch_op:
        batch_op.add_column(sa.Column("purged", sa.Boolean(), nullable=False, server_default=sa.false()))
