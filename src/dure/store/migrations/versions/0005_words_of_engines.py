"""What a site's engine says of an attempt: which GPUs it gave, where it chooses them, and what it has accounted for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Columns of attempts."""
    op.add_column("attempt", sa.Column("engine_gpus", sa.Text(), nullable=False, server_default=""))
    op.add_column("attempt", sa.Column("engine_gpu_ms", sa.BigInteger(), nullable=True))
