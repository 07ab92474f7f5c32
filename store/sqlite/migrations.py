"""Migrations: what makes the tables of one schema those of the next. Forward only, each store in one transaction.

Their SQL is text and never changes: it leads from one schema to the next, whatever `tables.py` says by then.
"""

from __future__ import annotations

from collections.abc import Iterable

STEPS: dict[int, Iterable[str]] = {
    5: (
        "ALTER TABLE chains ADD COLUMN run_name TEXT",
        "ALTER TABLE chains ADD COLUMN tags TEXT DEFAULT '{}' NOT NULL",
        "ALTER TABLE step_logs ADD COLUMN done REAL",
        "ALTER TABLE step_logs ADD COLUMN total REAL",
        "DROP INDEX ix_chains_status",
        "CREATE INDEX ix_chains_status ON chains (status, started_at)",
        "DROP INDEX ix_chains_started_at",
        "CREATE INDEX ix_chains_listed ON chains (started_at, id, name, run_name, tags, parent_workflow_id)",
        "CREATE INDEX ix_chains_run_name ON chains (run_name, started_at) WHERE run_name IS NOT NULL",
    ),
}
"""By the schema that they lead to, from the one before it."""
