"""The table of readings, and its column that tells analyses apart, have the names of what they hold"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    table = op.create_table(
        "annotation_reading",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("instance_id", number, nullable=False),
        sa.Column("analysis_sha256", sa.String(length=64), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("meaning", sa.String(length=16), nullable=False),
        sa.Column("left", sa.Double(), nullable=False),
        sa.Column("top", sa.Double(), nullable=False),
        sa.Column("right", sa.Double(), nullable=False),
        sa.Column("bottom", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("read_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_annotation_reading_study_id")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_annotation_reading_instance_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_reading")),
    )
    new = [f'"{column.name}"' for column in table.columns]
    old = ["asked" if name == '"analysis_sha256"' else name for name in new]
    copy = f"INSERT INTO annotation_reading ({', '.join(new)}) SELECT {', '.join(old)} FROM mark_reading"
    op.execute(sa.text(copy))
    op.drop_table("mark_reading")
    with op.batch_alter_table("annotation_reading", schema=None) as batch_op:
        for column in ("study_id", "instance_id"):
            batch_op.create_index(batch_op.f(f"ix_annotation_reading_{column}"), [column], unique=False)
    if op.get_bind().dialect.name == "postgresql":  # the numbers of new rows follow those that were copied
        last = "(SELECT coalesce(max(id), 0) + 1 FROM annotation_reading)"
        op.execute(
            sa.text(f"SELECT setval(pg_get_serial_sequence('annotation_reading', 'id'), {last}, false)")
        )
