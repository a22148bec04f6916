"""An attempt's end says how long its logs are, so that it is known when all of them have come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """A column, as JSON; null: not known."""
    op.add_column("attempt", sa.Column("log_bytes", sa.Text(), nullable=True))
