"""What was read from a share, a path, a reason or a JSON key has a column of its own"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NEW_COLUMNS: dict[str, sa.Column[Any]] = {
    "job": sa.Column("accepted", sa.Boolean(), nullable=False, server_default="0"),
    "delivery": sa.Column("withdrawn", sa.Boolean(), nullable=False, server_default="0"),
    "result": sa.Column("deidentified", sa.Boolean(), nullable=False, server_default="0"),
    "instance": sa.Column("assumed_charset", sa.String(255), nullable=False, server_default=""),
}


def upgrade() -> None:
    for table, column in _NEW_COLUMNS.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(column)
    op.execute(sa.text("UPDATE job SET accepted = true WHERE share_done > 0"))
    op.execute(
        sa.text(
            "UPDATE delivery SET withdrawn = true WHERE state = 'cancelled' AND reason LIKE 'withdrawn: %'"
        )
    )
    op.execute(sa.text("UPDATE result SET deidentified = true WHERE path LIKE 'deidentified/%'"))
    op.execute(sa.text("UPDATE instance SET role = 'non_source' WHERE role = 'companion'"))
    _move_character_sets()


def _move_character_sets() -> None:
    instance = sa.table(
        "instance",
        sa.column("id", sa.Integer),
        sa.column("attributes", sa.JSON),
        sa.column("assumed_charset", sa.String),
    )
    key = "AssumedCharacterSet"
    holds_it = sa.cast(instance.c.attributes, sa.Text).contains(f'"{key}"')
    rows = op.get_bind().execute(sa.select(instance.c.id, instance.c.attributes).where(holds_it)).all()
    for number, attributes in rows:
        rest = {name: text for name, text in attributes.items() if name != key}
        moved = instance.update().where(instance.c.id == number)
        op.execute(moved.values(attributes=rest, assumed_charset=str(attributes[key])))
