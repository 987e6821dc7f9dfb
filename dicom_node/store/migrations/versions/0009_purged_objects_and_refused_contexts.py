"""Purged objects are marked, refused presentation contexts are a list, and two names are the field's"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_AND_MORE = re.compile(r"and (\d+) more")  # the end of a text that named some of the refused contexts only


def upgrade() -> None:
    _rename_received_objects()
    for table in ("instance", "received_object"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("purged", sa.Boolean(), nullable=False, server_default="0"))
        op.execute(sa.text(f"UPDATE {table} SET purged = true WHERE path = ''"))
    op.execute(sa.text("UPDATE image_count SET outcome = 'reoriented' WHERE outcome = 'mended'"))
    _split_refused_contexts()


def _rename_received_objects() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    table = op.create_table(
        "received_object",
        sa.Column("id", number, nullable=False),
        sa.Column("spool_name", sa.String(length=255), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("study_id", number, nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_received_object_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_received_object")),
        sa.UniqueConstraint("spool_name", name=op.f("uq_received_object_spool_name")),
    )
    columns = ", ".join(column.name for column in table.columns)
    op.execute(sa.text(f"INSERT INTO received_object ({columns}) SELECT {columns} FROM reception"))
    op.drop_table("reception")
    with op.batch_alter_table("received_object", schema=None) as batch_op:
        for column in ("association", "sop_instance_uid", "study_id"):
            batch_op.create_index(batch_op.f(f"ix_received_object_{column}"), [column], unique=False)
    if op.get_bind().dialect.name == "postgresql":  # the numbers of new rows follow those that were copied
        last = "(SELECT coalesce(max(id), 0) + 1 FROM received_object)"
        op.execute(sa.text(f"SELECT setval(pg_get_serial_sequence('received_object', 'id'), {last}, false)"))


def _split_refused_contexts() -> None:
    """What stood as "a; b; and 7 more" becomes ["a", "b"] and their number, 9."""
    texts = sa.table("association", sa.column("id", sa.String), sa.column("refused", sa.Text))
    found = op.get_bind().execute(sa.select(texts.c.id, texts.c.refused).where(texts.c.refused != "")).all()
    with op.batch_alter_table("association", schema=None) as batch_op:
        batch_op.drop_column("refused")
        batch_op.add_column(sa.Column("refused", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("refused_count", sa.Integer(), nullable=False, server_default="0"))
    lists = sa.table(
        "association",
        sa.column("id", sa.String),
        sa.column("refused", sa.JSON),
        sa.column("refused_count", sa.Integer),
    )
    for name, text in found:
        contexts = text.split("; ")
        more = _AND_MORE.fullmatch(contexts[-1])
        named = contexts[:-1] if more else contexts
        count = len(named) + (int(more[1]) if more else 0)
        row = lists.update().where(lists.c.id == name)
        op.execute(row.values(refused=named, refused_count=count))
