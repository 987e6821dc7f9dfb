"""Peers and rules that were entered by page or command go from the database into ``entered.toml``."""

import logging

import sqlalchemy as sa
from alembic import context, op

from dicom_node.config.entered import ENTERED_FILE, changing, replace_entered
from dicom_node.errors import DatabaseNotReady

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    rows = op.get_bind().execute(
        sa.text("SELECT kind, keys, changed_by, changed_at FROM entered_table ORDER BY kind, name")
    )
    text = "".join(
        f"\n[[{kind}]] # changed by {by}, {str(at)[:19].replace(' ', 'T')}Z\n{keys}"
        for kind, keys, by, at in rows
    ).lstrip()
    if text:
        folder = context.config.attributes.get("data_dir")
        if folder is None:
            raise DatabaseNotReady(
                "peers and rules were entered in this database: run `dicom-node db upgrade`"
            )
        with changing(folder):
            replace_entered(folder, text, "dicom-node", "entered in the database before")
        logging.getLogger("dicom_node").warning(
            "the peers and rules that were entered in the database are in %s now", folder / ENTERED_FILE
        )
    op.drop_table("entered_table")
