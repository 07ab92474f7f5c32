-- Schema 4 as it was first spelled: stores that were made with it must work as they are.
CREATE TABLE api_keys (
  id TEXT NOT NULL CONSTRAINT ck_api_keys_id_given CHECK (id <> ''),
  name TEXT NOT NULL CONSTRAINT ck_api_keys_name_given CHECK (name <> ''),
  role TEXT NOT NULL CONSTRAINT ck_api_keys_role_word CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
  key_sha256 TEXT NOT NULL CONSTRAINT ck_api_keys_key_sha256_whole CHECK (length(key_sha256) = 64),
  created_at BIGINT NOT NULL,
  revoked_at BIGINT,
  CONSTRAINT pk_api_keys PRIMARY KEY (id),
  CONSTRAINT uq_api_keys_key_sha256 UNIQUE (key_sha256)
);

CREATE TABLE blobs (
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  data BLOB NOT NULL,
  CONSTRAINT pk_blobs PRIMARY KEY (sha256)
);

CREATE TABLE chains (
  id TEXT NOT NULL CONSTRAINT ck_chains_id_given CHECK (id <> ''),
  name TEXT NOT NULL,
  description TEXT,
  temporal_workflow_id TEXT,
  temporal_run_id TEXT,
  status TEXT NOT NULL,
  status_reason TEXT,
  current_level INTEGER DEFAULT '0' NOT NULL,
  started_at BIGINT NOT NULL,
  completed_at BIGINT,
  error_message TEXT,
  error_code TEXT,
  chain_definition TEXT,
  definition_hash TEXT,
  inputs TEXT,
  parent_run_id TEXT,
  regenerated_from_step_id TEXT,
  parent_workflow_id TEXT,
  owner TEXT,
  epoch INTEGER DEFAULT '0' NOT NULL,
  lease_until BIGINT,
  cancel_requested_at BIGINT,
  pause_requested_at BIGINT,
  idempotency_key TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_chains PRIMARY KEY (id),
  CONSTRAINT ck_chains_status_word CHECK (status IN ('pending', 'running', 'paused', 'completed', 'partial', 'failed', 'cancelled')),
  CONSTRAINT uq_chains_temporal_workflow_id UNIQUE (temporal_workflow_id),
  CONSTRAINT fk_chains_parent_run_id FOREIGN KEY(parent_run_id) REFERENCES chains (id) ON DELETE SET NULL,
  CONSTRAINT fk_chains_parent_workflow_id FOREIGN KEY(parent_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);

CREATE TABLE definitions (
  sha256 TEXT NOT NULL,
  definition TEXT NOT NULL,
  CONSTRAINT pk_definitions PRIMARY KEY (sha256)
);

CREATE TABLE schema_version (
  version INTEGER NOT NULL,
  applied_at BIGINT NOT NULL,
  CONSTRAINT pk_schema_version PRIMARY KEY (version)
);

CREATE TABLE webhook_cursors (
  target_sha256 TEXT NOT NULL,
  seq BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_webhook_cursors PRIMARY KEY (target_sha256)
);

CREATE TABLE events (
  seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  chain_id TEXT,
  workflow_id TEXT,
  type TEXT NOT NULL,
  at BIGINT NOT NULL,
  data TEXT DEFAULT '{}' NOT NULL,
  CONSTRAINT fk_events_chain_id FOREIGN KEY(chain_id) REFERENCES chains (id) ON DELETE CASCADE
);

CREATE TABLE sessions (
  session_sha256 TEXT NOT NULL CONSTRAINT ck_sessions_session_sha256_whole CHECK (length(session_sha256) = 64),
  key_id TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  ended_at BIGINT,
  CONSTRAINT pk_sessions PRIMARY KEY (session_sha256),
  CONSTRAINT fk_sessions_key_id FOREIGN KEY(key_id) REFERENCES api_keys (id) ON DELETE CASCADE
);

CREATE TABLE workflows (
  id TEXT NOT NULL CONSTRAINT ck_workflows_id_given CHECK (id <> ''),
  chain_id TEXT,
  step_id TEXT,
  item_index INTEGER,
  workflow_name TEXT NOT NULL,
  server_address TEXT,
  prompt_id TEXT,
  temporal_workflow_id TEXT,
  temporal_run_id TEXT,
  status TEXT NOT NULL,
  latest_artifact_id TEXT,
  attempt INTEGER DEFAULT '0' NOT NULL,
  item_count INTEGER,
  value TEXT,
  queued_at BIGINT NOT NULL,
  started_at BIGINT,
  completed_at BIGINT,
  error_message TEXT,
  error_code TEXT,
  error TEXT,
  workflow_definition TEXT,
  parameters TEXT,
  idempotency_key TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_workflows PRIMARY KEY (id),
  CONSTRAINT ck_workflows_status_word CHECK (status IN ('queued', 'executing', 'waiting_approval', 'completed', 'failed', 'skipped', 'cancelled', 'cached')),
  CONSTRAINT fk_workflows_latest_artifact_id FOREIGN KEY(id, latest_artifact_id) REFERENCES artifacts (workflow_id, id) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT fk_workflows_chain_id FOREIGN KEY(chain_id) REFERENCES chains (id) ON DELETE CASCADE
);

CREATE TABLE approvals (
  id TEXT NOT NULL CONSTRAINT ck_approvals_id_given CHECK (id <> ''),
  chain_id TEXT,
  workflow_id TEXT NOT NULL,
  step_id TEXT,
  item_index INTEGER,
  attempt INTEGER DEFAULT '1' NOT NULL,
  status TEXT NOT NULL,
  artifact_ids TEXT NOT NULL,
  policy TEXT NOT NULL,
  requested_at BIGINT NOT NULL,
  expires_at BIGINT,
  boot TEXT,
  booted_at BIGINT,
  decided_at BIGINT,
  decided_by TEXT,
  reason TEXT,
  action TEXT,
  decision_parameters TEXT,
  delivered INTEGER DEFAULT '0' NOT NULL,
  link_token_hash TEXT,
  link_expires_at BIGINT,
  idempotency_key TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_approvals PRIMARY KEY (id),
  CONSTRAINT ck_approvals_status_word CHECK (status IN ('pending', 'approved', 'rejected', 'timed_out', 'cancelled')),
  CONSTRAINT ck_approvals_action_word CHECK (action IN ('approve', 'stop', 'skip', 'regenerate')),
  CONSTRAINT fk_approvals_chain_id FOREIGN KEY(chain_id) REFERENCES chains (id) ON DELETE CASCADE,
  CONSTRAINT fk_approvals_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE,
  CONSTRAINT uq_approvals_link_token_hash UNIQUE (link_token_hash)
);

CREATE TABLE artifact_deletions (
  workflow_id TEXT NOT NULL,
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  deleted_at BIGINT NOT NULL,
  CONSTRAINT pk_artifact_deletions PRIMARY KEY (workflow_id, name, version),
  CONSTRAINT fk_artifact_deletions_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);

CREATE TABLE artifacts (
  id TEXT NOT NULL CONSTRAINT ck_artifacts_id_given CHECK (id <> ''),
  workflow_id TEXT NOT NULL,
  name TEXT NOT NULL,
  version INTEGER NOT NULL CONSTRAINT ck_artifacts_version_counted CHECK (version >= 1),
  is_latest INTEGER NOT NULL,
  filename TEXT NOT NULL,
  local_filename TEXT,
  local_path TEXT,
  file_type TEXT NOT NULL,
  file_format TEXT,
  file_size BIGINT NOT NULL,
  media_type TEXT NOT NULL,
  sha256 TEXT NOT NULL CONSTRAINT ck_artifacts_sha256_whole CHECK (length(sha256) = 64),
  node_id TEXT,
  subfolder TEXT DEFAULT '' NOT NULL,
  comfy_folder_type TEXT DEFAULT 'output' NOT NULL,
  parent_artifact_id TEXT,
  approval_status TEXT NOT NULL,
  approved_by TEXT,
  approved_at BIGINT,
  rejection_reason TEXT,
  attempt INTEGER DEFAULT '1' NOT NULL,
  parameters TEXT,
  created_by TEXT,
  extra_metadata TEXT,
  idempotency_key TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_artifacts PRIMARY KEY (id),
  CONSTRAINT ck_artifacts_approval_status_word CHECK (approval_status IN ('pending', 'approved', 'rejected', 'auto_approved', 'edited')),
  CONSTRAINT uq_artifacts_workflow_id_id UNIQUE (workflow_id, id),
  CONSTRAINT uq_artifacts_workflow_id_name_version UNIQUE (workflow_id, name, version),
  CONSTRAINT fk_artifacts_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE,
  CONSTRAINT fk_artifacts_parent_artifact_id FOREIGN KEY(parent_artifact_id) REFERENCES artifacts (id) ON DELETE SET NULL
);

CREATE TABLE step_cache (
  execution_hash TEXT NOT NULL,
  workflow_name TEXT NOT NULL,
  source_workflow_id TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  last_hit_at BIGINT,
  hit_count INTEGER DEFAULT '0' NOT NULL,
  CONSTRAINT pk_step_cache PRIMARY KEY (execution_hash),
  CONSTRAINT fk_step_cache_source_workflow_id FOREIGN KEY(source_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);

CREATE TABLE step_logs (
  workflow_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  text TEXT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_step_logs PRIMARY KEY (workflow_id, attempt),
  CONSTRAINT fk_step_logs_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);

CREATE TABLE artifact_transfers (
  id TEXT NOT NULL CONSTRAINT ck_artifact_transfers_id_given CHECK (id <> ''),
  artifact_id TEXT NOT NULL,
  source_workflow_id TEXT NOT NULL,
  target_workflow_id TEXT,
  target_server TEXT NOT NULL,
  target_subfolder TEXT DEFAULT '' NOT NULL,
  target_name TEXT,
  status TEXT NOT NULL,
  attempt INTEGER DEFAULT '0' NOT NULL,
  bytes BIGINT,
  duration_us BIGINT,
  uploaded_at BIGINT,
  error_message TEXT,
  idempotency_key TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT pk_artifact_transfers PRIMARY KEY (id),
  CONSTRAINT ck_artifact_transfers_status_word CHECK (status IN ('pending', 'uploading', 'completed', 'failed')),
  CONSTRAINT fk_artifact_transfers_artifact_id FOREIGN KEY(artifact_id) REFERENCES artifacts (id) ON DELETE CASCADE,
  CONSTRAINT fk_artifact_transfers_source_workflow_id FOREIGN KEY(source_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE,
  CONSTRAINT fk_artifact_transfers_target_workflow_id FOREIGN KEY(target_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);

CREATE UNIQUE INDEX one_key_per_name ON api_keys (name) WHERE revoked_at IS NULL;

CREATE INDEX ix_chains_parent_run_id ON chains (parent_run_id) WHERE parent_run_id IS NOT NULL;

CREATE INDEX ix_chains_parent_workflow_id ON chains (parent_workflow_id) WHERE parent_workflow_id IS NOT NULL;

CREATE INDEX ix_chains_started_at ON chains (started_at);

CREATE INDEX ix_chains_status ON chains (status);

CREATE UNIQUE INDEX uq_chains_idempotency_key ON chains (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX ix_events_chain_id_seq ON events (chain_id, seq);

CREATE INDEX ix_sessions_created_at ON sessions (created_at);

CREATE INDEX ix_sessions_key_id ON sessions (key_id);

CREATE INDEX ix_workflows_prompt_id ON workflows (prompt_id) WHERE prompt_id IS NOT NULL;

CREATE INDEX ix_workflows_status ON workflows (status) WHERE status IN ('queued', 'executing', 'waiting_approval', 'failed');

CREATE INDEX ix_workflows_temporal_workflow_id ON workflows (temporal_workflow_id) WHERE temporal_workflow_id IS NOT NULL;

CREATE UNIQUE INDEX uq_workflows_chain_id_step_id_item_index ON workflows (chain_id, step_id, coalesce(item_index, -1));

CREATE UNIQUE INDEX uq_workflows_idempotency_key ON workflows (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX ix_approvals_chain_id ON approvals (chain_id);

CREATE INDEX ix_approvals_status ON approvals (status, requested_at);

CREATE INDEX ix_approvals_undelivered ON approvals (chain_id) WHERE status <> 'pending' AND delivered = 0;

CREATE INDEX ix_approvals_workflow_id ON approvals (workflow_id);

CREATE UNIQUE INDEX one_pending ON approvals (workflow_id) WHERE status = 'pending';

CREATE UNIQUE INDEX uq_approvals_idempotency_key ON approvals (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX ix_artifacts_approval_status ON artifacts (approval_status);

CREATE INDEX ix_artifacts_created_at ON artifacts (created_at);

CREATE INDEX ix_artifacts_parent_artifact_id ON artifacts (parent_artifact_id) WHERE parent_artifact_id IS NOT NULL;

CREATE INDEX ix_artifacts_sha256 ON artifacts (sha256);

CREATE UNIQUE INDEX one_latest ON artifacts (workflow_id, name) WHERE is_latest = 1;

CREATE UNIQUE INDEX uq_artifacts_idempotency_key ON artifacts (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX ix_step_cache_source_workflow_id ON step_cache (source_workflow_id);

CREATE INDEX ix_artifact_transfers_artifact_id ON artifact_transfers (artifact_id);

CREATE INDEX ix_artifact_transfers_source_workflow_id ON artifact_transfers (source_workflow_id);

CREATE INDEX ix_artifact_transfers_status ON artifact_transfers (status);

CREATE INDEX ix_artifact_transfers_target_workflow_id ON artifact_transfers (target_workflow_id);

CREATE UNIQUE INDEX uq_artifact_transfers_idempotency_key ON artifact_transfers (idempotency_key) WHERE idempotency_key IS NOT NULL;

PRAGMA application_id = 1953462128;
INSERT INTO schema_version (version, applied_at) VALUES (4, 1);
