"""An agent's key remembers the token that it was given for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """A column; no token so far was given for another."""
    op.add_column("token", sa.Column("from_id", sa.String(length=32), nullable=False, server_default=""))
    op.create_index("token_from", "token", ["from_id"])
