"""The tables: the seed's four, with its column names, and what gates, audit and caching need.

Plain column types only, so that statements are compiled once and values need no processing: ids are
UUIDv7 text, times are UTC microseconds, JSON is text that we encode, booleans are 0 and 1.
"""

from __future__ import annotations

import sqlalchemy as sa

from towpath.model import ApprovalStatus, ArtifactApproval, ChainStatus, GateAction, StepStatus, TransferStatus

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id(name: str = "id") -> sa.Column[str]:
    return sa.Column(name, sa.Text, sa.CheckConstraint(f"{name} <> ''", name=f"{name}_given"), primary_key=True)


_USUAL = {"executing", "completed", "running", "auto_approved"}


def _status(
    name: str,
    words: type[ChainStatus | StepStatus | TransferStatus | ApprovalStatus | ArtifactApproval | GateAction],
    *,
    nullable: bool = False,
) -> tuple[sa.Column[str], sa.CheckConstraint]:
    # Not `IN (…)`: for that SQLite builds a table in memory at each write. The usual words are compared first.
    listed = sorted(words, key=lambda word: str(word) not in _USUAL)
    one_of = " OR ".join(f"{name} = '{word}'" for word in listed)
    return sa.Column(name, sa.Text, nullable=nullable), sa.CheckConstraint(one_of, name=f"{name}_word")


def _stamps() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in ("created_at", "updated_at")]


def _references(column: str, to: str, ondelete: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(column, sa.Text, sa.ForeignKey(to, ondelete=ondelete), nullable=nullable)


def _key(table: str) -> sa.Index:
    """An idempotency key: a second create with the same key finds the first row. Most rows have none."""
    given = sa.text("idempotency_key IS NOT NULL")
    return sa.Index(
        f"uq_{table}_idempotency_key",
        "idempotency_key",
        unique=True,
        sqlite_where=given,
        postgresql_where=given,
    )


def _where(name: str, *columns: str, condition: str, unique: bool = False) -> sa.Index:
    text = sa.text(condition)
    return sa.Index(name, *columns, unique=unique, sqlite_where=text, postgresql_where=text)


chains = sa.Table(
    "chains",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("temporal_workflow_id", sa.Text, unique=True),
    sa.Column("temporal_run_id", sa.Text),
    *_status("status", ChainStatus),
    sa.Column("status_reason", sa.Text),
    sa.Column("current_level", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("error_message", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("chain_definition", sa.Text),
    sa.Column("definition_hash", sa.Text),
    sa.Column("inputs", sa.Text),
    _references("parent_run_id", "chains.id", "SET NULL", nullable=True),
    sa.Column("regenerated_from_step_id", sa.Text),
    sa.Column(
        "parent_workflow_id",
        sa.Text,
        sa.ForeignKey("workflows.id", ondelete="CASCADE", use_alter=True, name="fk_chains_parent_workflow_id"),
    ),
    sa.Column("owner", sa.Text),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("cancel_requested_at", sa.BigInteger),
    sa.Column("pause_requested_at", sa.BigInteger),
    sa.Column("idempotency_key", sa.Text),
    *_stamps(),
    sa.Column("run_name", sa.Text),
    sa.Column("tags", sa.Text, nullable=False, server_default="{}"),
    sa.Index("ix_chains_status", "status", "started_at"),
    # Lists are read in this order, and their filters compare what is in the entries. None of it changes after the
    # start, so a run's entry is made once, at the end of the index.
    sa.Index("ix_chains_listed", "started_at", "id", "name", "run_name", "tags", "parent_workflow_id"),
    _where("ix_chains_run_name", "run_name", "started_at", condition="run_name IS NOT NULL"),
    _where("ix_chains_parent_run_id", "parent_run_id", condition="parent_run_id IS NOT NULL"),
    _where("ix_chains_parent_workflow_id", "parent_workflow_id", condition="parent_workflow_id IS NOT NULL"),
    _key("chains"),
)

definitions = sa.Table(
    # Large chain definitions, each stored once. The row of a run is written often, so it must stay small.
    "definitions",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("definition", sa.Text, nullable=False),
)

workflows = sa.Table(
    "workflows",
    metadata,
    _id(),
    _references("chain_id", "chains.id", "CASCADE", nullable=True),
    sa.Column("step_id", sa.Text),
    sa.Column("item_index", sa.Integer),
    sa.Column("workflow_name", sa.Text, nullable=False),
    sa.Column("server_address", sa.Text),
    sa.Column("prompt_id", sa.Text),
    sa.Column("temporal_workflow_id", sa.Text),
    sa.Column("temporal_run_id", sa.Text),
    *_status("status", StepStatus),
    sa.Column("latest_artifact_id", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("item_count", sa.Integer),
    sa.Column("value", sa.Text),
    sa.Column("queued_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("error_message", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("workflow_definition", sa.Text),
    sa.Column("parameters", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    *_stamps(),
    sa.ForeignKeyConstraint(
        ["id", "latest_artifact_id"],
        ["artifacts.workflow_id", "artifacts.id"],
        name="fk_workflows_latest_artifact_id",
        use_alter=True,
        deferrable=True,
        initially="DEFERRED",
    ),
    # A step has one row in its run, a mapped step one more per item. NULLs would count as different.
    sa.Index(
        "uq_workflows_chain_id_step_id_item_index",
        "chain_id",
        "step_id",
        sa.text("coalesce(item_index, -1)"),
        unique=True,
    ),
    _where("ix_workflows_prompt_id", "prompt_id", condition="prompt_id IS NOT NULL"),
    _where(
        "ix_workflows_temporal_workflow_id",
        "temporal_workflow_id",
        condition="temporal_workflow_id IS NOT NULL",
    ),
    # Queued and executing rows are found by the `chain_id` of their open run: an entry here would be made and removed
    # for each step.
    _where("ix_workflows_status", "status", condition="status = 'waiting_approval' OR status = 'failed'"),
    _key("workflows"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    _id(),
    _references("workflow_id", "workflows.id", "CASCADE"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, sa.CheckConstraint("version >= 1", name="version_counted"), nullable=False),
    sa.Column("is_latest", sa.Integer, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("local_filename", sa.Text),
    sa.Column("local_path", sa.Text),
    sa.Column("file_type", sa.Text, nullable=False),
    sa.Column("file_format", sa.Text),
    sa.Column("file_size", sa.BigInteger, nullable=False),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, sa.CheckConstraint("length(sha256) = 64", name="sha256_whole"), nullable=False),
    sa.Column("node_id", sa.Text),
    sa.Column("subfolder", sa.Text, nullable=False, server_default=""),
    sa.Column("comfy_folder_type", sa.Text, nullable=False, server_default="output"),
    _references("parent_artifact_id", "artifacts.id", "SET NULL", nullable=True),
    *_status("approval_status", ArtifactApproval),
    sa.Column("approved_by", sa.Text),
    sa.Column("approved_at", sa.BigInteger),
    sa.Column("rejection_reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("parameters", sa.Text),
    sa.Column("created_by", sa.Text),
    sa.Column("extra_metadata", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    *_stamps(),
    sa.UniqueConstraint("workflow_id", "id"),
    sa.UniqueConstraint("workflow_id", "name", "version"),
    _where("one_latest", "workflow_id", "name", condition="is_latest = 1", unique=True),
    sa.Index("ix_artifacts_approval_status", "approval_status"),
    sa.Index("ix_artifacts_created_at", "created_at"),
    sa.Index("ix_artifacts_sha256", "sha256"),
    _where("ix_artifacts_parent_artifact_id", "parent_artifact_id", condition="parent_artifact_id IS NOT NULL"),
    _key("artifacts"),
)

artifact_deletions = sa.Table(
    # Version numbers are never given twice: a deleted version leaves its number here.
    "artifact_deletions",
    metadata,
    _references("workflow_id", "workflows.id", "CASCADE"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("deleted_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("workflow_id", "name", "version"),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

artifact_transfers = sa.Table(
    "artifact_transfers",
    metadata,
    _id(),
    _references("artifact_id", "artifacts.id", "CASCADE"),
    _references("source_workflow_id", "workflows.id", "CASCADE"),
    _references("target_workflow_id", "workflows.id", "CASCADE", nullable=True),
    sa.Column("target_server", sa.Text, nullable=False),
    sa.Column("target_subfolder", sa.Text, nullable=False, server_default=""),
    sa.Column("target_name", sa.Text),
    *_status("status", TransferStatus),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("duration_us", sa.BigInteger),
    sa.Column("uploaded_at", sa.BigInteger),
    sa.Column("error_message", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    *_stamps(),
    sa.Index("ix_artifact_transfers_artifact_id", "artifact_id"),
    sa.Index("ix_artifact_transfers_source_workflow_id", "source_workflow_id"),
    sa.Index("ix_artifact_transfers_target_workflow_id", "target_workflow_id"),
    sa.Index("ix_artifact_transfers_status", "status"),
    _key("artifact_transfers"),
)

approvals = sa.Table(
    "approvals",
    metadata,
    _id(),
    _references("chain_id", "chains.id", "CASCADE", nullable=True),
    _references("workflow_id", "workflows.id", "CASCADE"),
    sa.Column("step_id", sa.Text),
    sa.Column("item_index", sa.Integer),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    *_status("status", ApprovalStatus),
    sa.Column("artifact_ids", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("boot", sa.Text),  # of the host that asked, and when that began by its clock: see `gates.py`
    sa.Column("booted_at", sa.BigInteger),
    sa.Column("decided_at", sa.BigInteger),
    sa.Column("decided_by", sa.Text),
    sa.Column("reason", sa.Text),
    *_status("action", GateAction, nullable=True),
    sa.Column("decision_parameters", sa.Text),
    sa.Column("delivered", sa.Integer, nullable=False, server_default="0"),
    sa.Column("link_token_hash", sa.Text, unique=True),
    sa.Column("link_expires_at", sa.BigInteger),
    sa.Column("idempotency_key", sa.Text),
    *_stamps(),
    _where("one_pending", "workflow_id", condition="status = 'pending'", unique=True),
    _where("ix_approvals_undelivered", "chain_id", condition="status <> 'pending' AND delivered = 0"),
    sa.Index("ix_approvals_chain_id", "chain_id"),
    sa.Index("ix_approvals_workflow_id", "workflow_id"),
    sa.Index("ix_approvals_status", "status", "requested_at"),
    _key("approvals"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _references("chain_id", "chains.id", "CASCADE", nullable=True),
    sa.Column("workflow_id", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("data", sa.Text, nullable=False, server_default="{}"),
    sa.Index("ix_events_chain_id_seq", "chain_id", "seq"),
    sqlite_autoincrement=True,  # a deleted run's numbers never come again: readers go on after the last they saw
)

step_logs = sa.Table(
    "step_logs",
    metadata,
    _references("workflow_id", "workflows.id", "CASCADE"),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("done", sa.REAL),
    sa.Column("total", sa.REAL),
    sa.PrimaryKeyConstraint("workflow_id", "attempt"),
)

step_cache = sa.Table(
    "step_cache",
    metadata,
    sa.Column("execution_hash", sa.Text, primary_key=True),
    sa.Column("workflow_name", sa.Text, nullable=False),
    _references("source_workflow_id", "workflows.id", "CASCADE"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_hit_at", sa.BigInteger),
    sa.Column("hit_count", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_step_cache_source_workflow_id", "source_workflow_id"),
)

api_keys = sa.Table(
    # Who may use the HTTP API. Of a key only its SHA-256 is kept; revoked keys stay, for the audit.
    "api_keys",
    metadata,
    _id(),
    sa.Column("name", sa.Text, sa.CheckConstraint("name <> ''", name="name_given"), nullable=False),
    sa.Column(
        "role",
        sa.Text,
        sa.CheckConstraint("role IN ('viewer', 'operator', 'approver', 'admin')", name="role_word"),
        nullable=False,
    ),
    sa.Column(
        "key_sha256",
        sa.Text,
        sa.CheckConstraint("length(key_sha256) = 64", name="key_sha256_whole"),
        nullable=False,
        unique=True,
    ),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
    _where("one_key_per_name", "name", condition="revoked_at IS NULL", unique=True),
)

sessions = sa.Table(
    # People who showed a key in a browser. The cookie holds what this is the SHA-256 of; signing out ends the row.
    "sessions",
    metadata,
    sa.Column(
        "session_sha256",
        sa.Text,
        sa.CheckConstraint("length(session_sha256) = 64", name="session_sha256_whole"),
        primary_key=True,
    ),
    _references("key_id", "api_keys.id", "CASCADE"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_sessions_created_at", "created_at"),
    sa.Index("ix_sessions_key_id", "key_id"),
)

webhook_cursors = sa.Table(
    # How far in `events` the receiver at an address (its SHA-256: addresses may hold secrets) has read.
    "webhook_cursors",
    metadata,
    sa.Column("target_sha256", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

schema_version = sa.Table(
    "schema_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
)
