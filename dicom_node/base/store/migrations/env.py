"""Alembic's environment: works on the connection that ``store.database`` hands in."""

from typing import Any, Literal

from alembic import context

from dicom_node.base.store.mapping import Base, UtcDateTime


def _plain_type(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Migrations name plain database types: they must not change when our Python types do."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=_plain_type,
    compare_type=True,
)
context.run_migrations()
