"""What a site's engine says of an attempt: which GPUs it gave, where it chooses them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """A column of attempts."""
    op.add_column("attempt", sa.Column("engine_gpus", sa.Text(), nullable=False, server_default=""))
