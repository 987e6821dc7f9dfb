"""Patients are compared by ID, name, birth date and sex, not by the ID alone"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# SHA-256 of an empty Patient ID and issuer: it named a patient, though it is nobody's identity.
_NO_ID = "420b5d9cb7da08b276b00f69faf7a00e59262fa6dbba2b9c0c659fafa8133b4a"


def upgrade() -> None:
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.add_column(sa.Column("patient", sa.Text(), nullable=False, server_default=""))
    op.execute(
        sa.text(
            "UPDATE instance SET patient ="
            " CASE WHEN patient_sha256 = :no_id THEN '' ELSE patient_sha256 END || ';;;;;'"
        ).bindparams(no_id=_NO_ID)
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.drop_column("patient_sha256")
