"""The tables: the log is the truth, all others can be made from it again (but tokens' hashes and specs' secrets)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

#: One row a step; `body` is the canonical JSON that the hash seals.
event = Table(
    "event", metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("body", Text, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)  # fmt: skip

#: What the log began with, and other single facts.
fact = Table("fact", metadata, Column("key", String(100), primary_key=True), Column("value", Text, nullable=False))

job = Table(
    "job", metadata,
    Column("job_id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("project", String(200), nullable=False),
    Column("member", String(64), nullable=False),
    Column("user", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_type", String(64), nullable=False),
    Column("site", String(64), nullable=False),
    Column("exit_code", Integer),
    Column("submitted_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("promised_ms", BigInteger),
    Column("array_id", String(64), nullable=False),
    Column("array_index", Integer),
    Column("pipeline_id", String(64), nullable=False),
    Column("pipeline_job", String(64), nullable=False),
    Column("progress", Text, nullable=False),
    Column("nodes", Text, nullable=False),
    Column("limit_s", Float),
    Column("spec", Text, nullable=False),
    Column("service", String(64), nullable=False, server_default=""),
    Index("job_service", "service", "job_id"),
    Index("job_state", "state", "job_id"),
    Index("job_project", "project", "job_id"),
    Index("job_member", "member", "job_id"),
    Index("job_user", "user", "job_id"),
    Index("job_array", "array_id"),
)  # fmt: skip

#: One row a lease: what was used, of whose GPUs, on what terms. The usage records.
attempt = Table(
    "attempt", metadata,
    Column("lease_id", String(80), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("project", String(200), nullable=False),
    Column("member", String(64), nullable=False),
    Column("user", String(200), nullable=False),
    Column("site", String(64), nullable=False),
    Column("pool", String(200), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("agreement", String(200), nullable=False),
    Column("gpu_type", String(64), nullable=False),
    Column("gpu_milli", BigInteger, nullable=False),
    Column("placements", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("cause", String(80), nullable=False),
    Column("deadline_ms", BigInteger),
    Column("leased_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("run_ms", BigInteger),
    Column("borrowed_ms", BigInteger),
    Column("exit_code", Integer),
    Column("energy_mj", BigInteger),
    Column("engine_gpus", Text, nullable=False),
    Column("engine_gpu_ms", BigInteger),
    Column("log_bytes", Text),
    Index("attempt_job", "job_id", "attempt"),
    Index("attempt_ended", "ended_ms"),
    Index("attempt_site", "site", "state"),
)  # fmt: skip

token = Table(
    "token", metadata,
    Column("token_id", String(32), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("user", String(200), nullable=False),
    Column("grants", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("is_revoked", Boolean, nullable=False),
    Column("from_id", String(32), nullable=False),
    Index("token_from", "from_id"),
)  # fmt: skip

#: States of the live core after some step, of which the last is kept; `digest` ties `body` to the step and its hash.
snapshot = Table(
    "snapshot", metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
)  # fmt: skip

project = Table(
    "project", metadata,
    Column("project", String(200), primary_key=True),
    Column("member", String(64), nullable=False),
    Column("weight", Float, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
)  # fmt: skip

agent = Table(
    "agent", metadata,
    Column("site", String(64), primary_key=True),
    Column("agent_id", String(64), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("nodes", Text, nullable=False),
)  # fmt: skip
