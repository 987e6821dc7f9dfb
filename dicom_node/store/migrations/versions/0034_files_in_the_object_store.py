"""Which received objects are in the object store, by the hash of their file"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    with op.batch_alter_table("received_object", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sha256", sa.String(length=64), nullable=True))
    waits = sa.text("sha256 = ''")
    op.create_index(
        "ix_received_object_waits", "received_object", ["id"], sqlite_where=waits, postgresql_where=waits
    )
