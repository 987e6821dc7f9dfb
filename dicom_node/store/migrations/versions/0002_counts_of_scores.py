"""Counts of a model's scores and refusals"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "counted_image",
        sa.Column("card_sha256", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_counted_image_instance_id")),
        sa.PrimaryKeyConstraint("card_sha256", "instance_id", name=op.f("pk_counted_image")),
    )
    with op.batch_alter_table("counted_image", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_counted_image_day"), ["day"], unique=False)
        batch_op.create_index(batch_op.f("ix_counted_image_instance_id"), ["instance_id"], unique=False)

    op.create_table(
        "image_count",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("card_sha256", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column(
            "outcome",
            sa.Enum(
                "analysed",
                "mended",
                "refused_header",
                "refused_pixels",
                name="counted",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day", "card_sha256", "calling_ae", "outcome", name=op.f("pk_image_count")),
    )
    op.create_table(
        "score_count",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("card_sha256", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("bin", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "card_sha256", "calling_ae", "label", "bin", name=op.f("pk_score_count")
        ),
    )
