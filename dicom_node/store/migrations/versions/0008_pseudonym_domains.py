"""Results bear the pseudonyms of a domain"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("result", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pseudonym_domain", sa.String(64), nullable=False, server_default=""))
