"""Reviews of cleaning, and what a person draws there"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "cleaning_review",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("instance_id", number, nullable=False),
        sa.Column("job_id", number, nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("analysis_sha256", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("places", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_cleaning_review_instance_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_cleaning_review_job_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_cleaning_review_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cleaning_review")),
        sa.UniqueConstraint("instance_id", "rule", "analysis_sha256", name="uq_cleaning_review_once"),
    )
    with op.batch_alter_table("cleaning_review", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cleaning_review_instance_id"), ["instance_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cleaning_review_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cleaning_review_study_id"), ["study_id"], unique=False)
        batch_op.create_index("ix_cleaning_review_waiting", ["verdict", "id"], unique=False)
    op.create_table(
        "drawn_by_hand",
        sa.Column("instance_id", number, nullable=False),
        sa.Column("pixels_sha256", sa.String(length=64), nullable=False),
        sa.Column("boxes", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_drawn_by_hand_instance_id")),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_drawn_by_hand")),
    )
