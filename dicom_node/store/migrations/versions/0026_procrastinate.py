"""procrastinate's tables beside ours where the database is PostgreSQL, and the ticket of a job in them"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column("job", sa.Column("ticket", sa.BigInteger(), nullable=True))
    connection = op.get_bind()
    if connection.dialect.name == "postgresql" and not sa.inspect(connection).has_table("procrastinate_jobs"):
        from procrastinate.schema import SchemaManager

        # Many statements in one text: by the driver, which takes them where no parameters are given.
        driver: Any = connection.connection.driver_connection
        driver.execute(SchemaManager.get_schema())
