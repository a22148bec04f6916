"""A token may hold several roles: people who sign in with a provider belong to several groups."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAMES = ("role", "member", "project", "site")


def upgrade() -> None:
    """Write each token's one role as a list of one."""
    op.add_column("token", sa.Column("grants", sa.Text(), nullable=False, server_default="[]"))
    columns = [sa.column(name, sa.String()) for name in ("token_id", *_NAMES)]
    connection = op.get_bind()
    for row in connection.execute(sa.select(*columns).select_from(sa.table("token"))).mappings().all():
        grants = json.dumps([{name: row[name] for name in _NAMES}])
        connection.execute(
            sa.text("UPDATE token SET grants = :grants WHERE token_id = :token_id"),
            {"grants": grants, "token_id": row["token_id"]},
        )
    with op.batch_alter_table("token") as batch:
        for name in _NAMES:
            batch.drop_column(name)
