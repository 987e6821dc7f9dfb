"""Studies are found quickly by the beginning of a number, by modality and by sender"""

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    for name, column in (("ix_study_patient", "patient_id"), ("ix_study_accession", "accession_number")):
        op.drop_index(name, "study")
        op.create_index(name, "study", [column], postgresql_ops={column: "text_pattern_ops"})
    op.create_index("ix_instance_modality", "instance", ["modality", "study_id", "role"])
    op.create_index("ix_instance_sender", "instance", ["calling_ae", "study_id", "role"])
