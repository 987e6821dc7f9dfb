"""Which audit records a repository has"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("audit", sa.Column("reported", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_audit_reported", "audit", ["reported", "id"])
