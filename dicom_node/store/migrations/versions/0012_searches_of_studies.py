"""Studies have their accession number, and are found and listed quickly however many there are"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("accession_number", sa.String(length=16), nullable=False, server_default="")
        )
        batch_op.create_index("ix_study_received", ["last_received_at", "id"], unique=False)
        batch_op.create_index("ix_study_date", ["study_date", "id"], unique=False)
        batch_op.create_index("ix_study_patient", ["patient_id"], unique=False)
        batch_op.create_index("ix_study_accession", ["accession_number"], unique=False)
