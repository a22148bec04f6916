"""Jobs that clients find by a name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """A column, empty for jobs that are no service, and its index."""
    op.add_column("job", sa.Column("service", sa.String(64), nullable=False, server_default=""))
    op.create_index("job_service", "job", ["service", "job_id"])
