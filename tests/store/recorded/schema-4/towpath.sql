-- A store of schema 4, with the runs of tests/store/recorded_chains.py, made when schema 4 was the newest.
PRAGMA application_id = 1953462128;
BEGIN TRANSACTION;
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
	CONSTRAINT ck_approvals_status_word CHECK (status = 'pending' OR status = 'approved' OR status = 'rejected' OR status = 'timed_out' OR status = 'cancelled'), 
	CONSTRAINT ck_approvals_action_word CHECK (action = 'approve' OR action = 'stop' OR action = 'skip' OR action = 'regenerate'), 
	CONSTRAINT fk_approvals_chain_id FOREIGN KEY(chain_id) REFERENCES chains (id) ON DELETE CASCADE, 
	CONSTRAINT fk_approvals_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE, 
	CONSTRAINT uq_approvals_link_token_hash UNIQUE (link_token_hash)
);
INSERT INTO "approvals" VALUES('01a22c81-9d3f-710a-a149-9645927d3129','paused','01a22c81-9d3e-7454-88c7-ee1527fda632','draw',NULL,1,'pending','["01a22c81-9d3f-710a-a149-9644cb1f4397"]','{"on_rejected":"stop","max_retries":0,"timeout":null,"timeout_action":"auto_reject"}',1796043021631623,NULL,'00000000-0000-4000-8000-000000000000',1795991295364004,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,1796043021631623,1796043021631623);
CREATE TABLE artifact_deletions (
	workflow_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	deleted_at BIGINT NOT NULL, 
	CONSTRAINT pk_artifact_deletions PRIMARY KEY (workflow_id, name, version), 
	CONSTRAINT fk_artifact_deletions_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
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
	CONSTRAINT ck_artifact_transfers_status_word CHECK (status = 'completed' OR status = 'pending' OR status = 'uploading' OR status = 'failed'), 
	CONSTRAINT fk_artifact_transfers_artifact_id FOREIGN KEY(artifact_id) REFERENCES artifacts (id) ON DELETE CASCADE, 
	CONSTRAINT fk_artifact_transfers_source_workflow_id FOREIGN KEY(source_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE, 
	CONSTRAINT fk_artifact_transfers_target_workflow_id FOREIGN KEY(target_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
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
	CONSTRAINT ck_artifacts_approval_status_word CHECK (approval_status = 'auto_approved' OR approval_status = 'pending' OR approval_status = 'approved' OR approval_status = 'rejected' OR approval_status = 'edited'), 
	CONSTRAINT uq_artifacts_workflow_id_id UNIQUE (workflow_id, id), 
	CONSTRAINT uq_artifacts_workflow_id_name_version UNIQUE (workflow_id, name, version), 
	CONSTRAINT fk_artifacts_workflow_id FOREIGN KEY(workflow_id) REFERENCES workflows (id) ON DELETE CASCADE, 
	CONSTRAINT fk_artifacts_parent_artifact_id FOREIGN KEY(parent_artifact_id) REFERENCES artifacts (id) ON DELETE SET NULL
);
INSERT INTO "artifacts" VALUES('01a22c81-9d32-71cc-abe8-50903a976747','01a22c81-9cbd-7229-bf22-9f4f6a8ffd39','output',1,1,'picture.txt','9ae1d9f56aa6687c150fcb978d7517bee69a84c13f6add203a98e2880ddd93f1','9a/9ae1d9f56aa6687c150fcb978d7517bee69a84c13f6add203a98e2880ddd93f1','text','txt',40000,'text/plain','9ae1d9f56aa6687c150fcb978d7517bee69a84c13f6add203a98e2880ddd93f1',NULL,'','output',NULL,'auto_approved',NULL,NULL,NULL,1,'{"text":"water ","size":40000}',NULL,NULL,NULL,1796043021618787,1796043021618787);
INSERT INTO "artifacts" VALUES('01a22c81-9d3f-710a-a149-9644cb1f4397','01a22c81-9d3e-7454-88c7-ee1527fda632','output',1,1,'picture.txt',NULL,NULL,'text','txt',100,'text/plain','42b074883c0f61eea67afa7830338d212b8a8e4a59e322bf2ea3f57fe42f1182',NULL,'','output',NULL,'pending',NULL,NULL,NULL,1,'{"text":"lock ","size":100}',NULL,NULL,NULL,1796043021631623,1796043021631623);
INSERT INTO "artifacts" VALUES('01a22c81-9d84-7524-b5d0-fa9ab9bc6915','01a22c81-9d82-719c-a25d-fa21d6627952','output',1,1,'picture.txt',NULL,NULL,'text','txt',30,'text/plain','7c48d7466e28c92884a8314a2b6ab9f29c5de30e89328e1555a291d1fc7d0d01',NULL,'','output',NULL,'auto_approved',NULL,NULL,NULL,1,'{"text":"tow ","size":30}',NULL,NULL,NULL,1796043021700503,1796043021700503);
CREATE TABLE blobs (
	sha256 TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (sha256)
);
INSERT INTO "blobs" VALUES('42b074883c0f61eea67afa7830338d212b8a8e4a59e322bf2ea3f57fe42f1182',100,X'6C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B206C6F636B20');
INSERT INTO "blobs" VALUES('7c48d7466e28c92884a8314a2b6ab9f29c5de30e89328e1555a291d1fc7d0d01',30,X'746F7720746F7720746F7720746F7720746F7720746F7720746F7720746F');
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
	CONSTRAINT ck_chains_status_word CHECK (status = 'running' OR status = 'completed' OR status = 'pending' OR status = 'paused' OR status = 'partial' OR status = 'failed' OR status = 'cancelled'), 
	CONSTRAINT uq_chains_temporal_workflow_id UNIQUE (temporal_workflow_id), 
	CONSTRAINT fk_chains_parent_run_id FOREIGN KEY(parent_run_id) REFERENCES chains (id) ON DELETE SET NULL, 
	CONSTRAINT fk_chains_parent_workflow_id FOREIGN KEY(parent_workflow_id) REFERENCES workflows (id) ON DELETE CASCADE
);
INSERT INTO "chains" VALUES('completed','drawn',NULL,NULL,NULL,'completed',NULL,1,1796043021495449,1796043021625334,NULL,NULL,'{"name":"drawn","steps":[{"id":"draw","kind":"python","target":"tests.store.recorded_chains:draw","parameters":{"text":{"$ref":{"input":"text","keys":[]}},"size":{"$ref":{"input":"size","keys":[]}}},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"A file: of more than 16 KiB it lies beside the database.","level":0,"chain":null},{"id":"measure","kind":"python","target":"tests.store.recorded_chains:measure","parameters":{"picture":{"$ref":{"step":"draw","keys":[]}}},"depends_on":["draw"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"text","type":"string","required":false,"default":"water ","description":"","source":"","target":"","shape":null,"secret":false},{"name":"size","type":"integer","required":false,"default":40000,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"measure","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','e648c893b2b865f159780e631f3cd27f873e05823195f784debe167a2e89e306','{"text":"water ","size":40000}',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,1796043021495449,1796043021625334);
INSERT INTO "chains" VALUES('paused','looked_at',NULL,NULL,NULL,'paused','approval',0,1796043021627566,NULL,NULL,NULL,'{"name":"looked_at","steps":[{"id":"draw","kind":"python","target":"tests.store.recorded_chains:draw","parameters":{"text":{"$ref":{"input":"text","keys":[]}},"size":100},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":{"on_rejected":"stop","max_retries":0,"timeout":null,"timeout_action":"auto_reject"},"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"A file: of more than 16 KiB it lies beside the database.","level":0,"chain":null},{"id":"measure","kind":"python","target":"tests.store.recorded_chains:measure","parameters":{"picture":{"$ref":{"step":"draw","keys":[]}}},"depends_on":["draw"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"text","type":"string","required":false,"default":"lock ","description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"measure","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','5132f8eea762ac4dbf6b9851979c36169ca2a79d12505e589051597738899bc4','{"text":"lock "}',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,1796043021627566,1796043021631623);
INSERT INTO "chains" VALUES('failed','quotient',NULL,NULL,NULL,'failed',NULL,1,1796043021635863,1796043021641398,'step divided: ZeroDivisionError: division by zero','E_STEP_RAISED','{"name":"quotient","steps":[{"id":"held","kind":"python","target":"tests.store.recorded_chains:held","parameters":{"number":41},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":0,"chain":null},{"id":"divided","kind":"python","target":"tests.store.recorded_chains:divided","parameters":{"whole":{"$ref":{"step":"held","keys":[]}},"by":{"$ref":{"input":"by","keys":[]}}},"depends_on":["held"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"by","type":"integer","required":true,"default":null,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"divided","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','4bd472ffee5fae401a17797ddc2c21a8e5f292b2a8e5ea4df0a2961b2737d470','{"by":0}',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,1796043021635863,1796043021641398);
INSERT INTO "chains" VALUES('mapped','counted',NULL,NULL,NULL,'completed',NULL,1,1796043021645508,1796043021678606,NULL,NULL,'{"name":"counted","steps":[{"id":"held","kind":"python","target":"tests.store.recorded_chains:held","parameters":{"number":{"$item":[]}},"depends_on":[],"condition":null,"watches":[],"foreach":{"$ref":{"input":"numbers","keys":[]}},"mapped":true,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":0,"chain":null},{"id":"total","kind":"python","target":"tests.store.recorded_chains:total","parameters":{"numbers":{"$ref":{"step":"held","keys":[]}}},"depends_on":["held"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"numbers","type":"json","required":true,"default":null,"description":"","source":"","target":"","shape":{"list":"integer"},"secret":false}],"description":"","output":{"$ref":{"step":"total","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','e07792d74e7e3f3c4f41d7ebceea14ae3c2cd26923f3baa5a4227bbaf50702f9','{"numbers":[1,2,3]}',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,1796043021645508,1796043021678606);
INSERT INTO "chains" VALUES('nested','around',NULL,NULL,NULL,'completed',NULL,1,1796043021684688,1796043021703696,NULL,NULL,'{"name":"around","steps":[{"id":"drawn","kind":"chain","target":"drawn","parameters":{"text":{"$ref":{"input":"text","keys":[]}},"size":30},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":0,"chain":{"name":"drawn","steps":[{"id":"draw","kind":"python","target":"tests.store.recorded_chains:draw","parameters":{"text":{"$ref":{"input":"text","keys":[]}},"size":{"$ref":{"input":"size","keys":[]}}},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"A file: of more than 16 KiB it lies beside the database.","level":0,"chain":null},{"id":"measure","kind":"python","target":"tests.store.recorded_chains:measure","parameters":{"picture":{"$ref":{"step":"draw","keys":[]}}},"depends_on":["draw"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"text","type":"string","required":false,"default":"water ","description":"","source":"","target":"","shape":null,"secret":false},{"name":"size","type":"integer","required":false,"default":40000,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"measure","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}},{"id":"held","kind":"python","target":"tests.store.recorded_chains:held","parameters":{"number":{"$ref":{"step":"drawn","keys":[]}}},"depends_on":["drawn"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"text","type":"string","required":true,"default":null,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"held","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','a2591e806f057c106946df6a0eec5eb858c08026cbad560436d1c1906f1ab420','{"text":"tow "}',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,1796043021684688,1796043021703696);
INSERT INTO "chains" VALUES('01a22c81-9d7f-75a7-91cd-bd005dcc8c58','drawn',NULL,NULL,NULL,'completed',NULL,1,1796043021695981,1796043021701875,NULL,NULL,'{"name":"drawn","steps":[{"id":"draw","kind":"python","target":"tests.store.recorded_chains:draw","parameters":{"text":{"$ref":{"input":"text","keys":[]}},"size":{"$ref":{"input":"size","keys":[]}}},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"A file: of more than 16 KiB it lies beside the database.","level":0,"chain":null},{"id":"measure","kind":"python","target":"tests.store.recorded_chains:measure","parameters":{"picture":{"$ref":{"step":"draw","keys":[]}}},"depends_on":["draw"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"text","type":"string","required":false,"default":"water ","description":"","source":"","target":"","shape":null,"secret":false},{"name":"size","type":"integer","required":false,"default":40000,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"measure","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','e648c893b2b865f159780e631f3cd27f873e05823195f784debe167a2e89e306','{"text":"tow ","size":30}',NULL,NULL,'01a22c81-9d7e-7244-8871-c2ccc0134aab',NULL,1,NULL,NULL,NULL,NULL,1796043021695981,1796043021701875);
INSERT INTO "chains" VALUES('interrupted','quotient',NULL,NULL,NULL,'running',NULL,0,1796043023798028,NULL,NULL,NULL,'{"name":"quotient","steps":[{"id":"held","kind":"python","target":"tests.store.recorded_chains:held","parameters":{"number":41},"depends_on":[],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":0,"chain":null},{"id":"divided","kind":"python","target":"tests.store.recorded_chains:divided","parameters":{"whole":{"$ref":{"step":"held","keys":[]}},"by":{"$ref":{"input":"by","keys":[]}}},"depends_on":["held"],"condition":null,"watches":[],"foreach":null,"mapped":false,"pairs_with":null,"on_item_failure":"fail","approval":null,"retry":{"attempts":1,"delay":2.0,"backoff":2.0,"max_delay":300.0,"jitter":true},"retry_on":[],"timeout":null,"total_timeout":null,"limit":null,"concurrency":null,"process":false,"server":null,"requires":{},"cheap":false,"cache":null,"secret":false,"secrets":[],"description":"","level":1,"chain":null}],"inputs":[{"name":"by","type":"integer","required":true,"default":null,"description":"","source":"","target":"","shape":null,"secret":false}],"description":"","output":{"$ref":{"step":"divided","keys":[]}},"concurrency":null,"metadata":{},"folder":"/srv/towpath/tests/store","workflows":{}}','4bd472ffee5fae401a17797ddc2c21a8e5f292b2a8e5ea4df0a2961b2737d470','{"by":7}',NULL,NULL,NULL,'{"host":"recorder","boot":"00000000-0000-4000-8000-000000000000","pid":17718,"started":5172679,"steady_until":51758440386}',1,1764507053804429,NULL,NULL,NULL,1796043023798028,1796043023809893);
CREATE TABLE definitions (
	sha256 TEXT NOT NULL, 
	definition TEXT NOT NULL, 
	CONSTRAINT pk_definitions PRIMARY KEY (sha256)
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
INSERT INTO "events" VALUES(1,'completed',NULL,'ChainCreated',1796043021495449,'{"name":"drawn"}');
INSERT INTO "events" VALUES(2,'completed',NULL,'ChainStarted',1796043021501452,'{}');
INSERT INTO "events" VALUES(3,'completed','01a22c81-9cbd-7229-bf22-9f4f6a8ffd39','StepStarted',1796043021501452,'{"step":"draw","attempt":1}');
INSERT INTO "events" VALUES(4,'completed','01a22c81-9cbd-7229-bf22-9f4f6a8ffd39','StepCompleted',1796043021618787,'{"step":"draw","attempt":1,"artifacts":["output v1"]}');
INSERT INTO "events" VALUES(5,'completed','01a22c81-9d32-71cc-abe8-5091d3b9d954','StepStarted',1796043021618787,'{"step":"measure","attempt":1}');
INSERT INTO "events" VALUES(6,'completed','01a22c81-9d32-71cc-abe8-5091d3b9d954','StepCompleted',1796043021625334,'{"step":"measure","attempt":1}');
INSERT INTO "events" VALUES(7,'completed',NULL,'ChainEnded',1796043021625334,'{"status":"completed"}');
INSERT INTO "events" VALUES(8,'paused',NULL,'ChainCreated',1796043021627566,'{"name":"looked_at"}');
INSERT INTO "events" VALUES(9,'paused',NULL,'ChainStarted',1796043021630198,'{}');
INSERT INTO "events" VALUES(10,'paused','01a22c81-9d3e-7454-88c7-ee1527fda632','StepStarted',1796043021630198,'{"step":"draw","attempt":1}');
INSERT INTO "events" VALUES(11,'paused','01a22c81-9d3e-7454-88c7-ee1527fda632','ApprovalRequested',1796043021631623,'{"step":"draw","approval":"01a22c81-9d3f-710a-a149-9645927d3129"}');
INSERT INTO "events" VALUES(12,'paused','01a22c81-9d3e-7454-88c7-ee1527fda632','StepWaiting',1796043021631623,'{"step":"draw","attempt":1,"artifacts":["output v1"]}');
INSERT INTO "events" VALUES(13,'paused',NULL,'ChainPaused',1796043021631623,'{"reason":"approval"}');
INSERT INTO "events" VALUES(14,'failed',NULL,'ChainCreated',1796043021635863,'{"name":"quotient"}');
INSERT INTO "events" VALUES(15,'failed',NULL,'ChainStarted',1796043021638528,'{}');
INSERT INTO "events" VALUES(16,'failed','01a22c81-9d46-77a3-989c-7ca2326ed0bd','StepStarted',1796043021638528,'{"step":"held","attempt":1}');
INSERT INTO "events" VALUES(17,'failed','01a22c81-9d46-77a3-989c-7ca2326ed0bd','StepCompleted',1796043021639627,'{"step":"held","attempt":1}');
INSERT INTO "events" VALUES(18,'failed','01a22c81-9d47-71e6-a579-fe8bb314703c','StepStarted',1796043021639627,'{"step":"divided","attempt":1}');
INSERT INTO "events" VALUES(19,'failed','01a22c81-9d47-71e6-a579-fe8bb314703c','StepFailed',1796043021641398,'{"step":"divided","attempt":1,"error":{"code":"E_STEP_RAISED","message":"ZeroDivisionError: division by zero"}}');
INSERT INTO "events" VALUES(20,'failed',NULL,'ChainEnded',1796043021641398,'{"status":"failed","error":{"code":"E_STEP_RAISED","message":"step divided: ZeroDivisionError: division by zero"}}');
INSERT INTO "events" VALUES(21,'mapped',NULL,'ChainCreated',1796043021645508,'{"name":"counted"}');
INSERT INTO "events" VALUES(22,'mapped',NULL,'ChainStarted',1796043021660818,'{}');
INSERT INTO "events" VALUES(23,'mapped','01a22c81-9d5c-74aa-8616-7e6f8e5fa06c','StepStarted',1796043021660818,'{"step":"held","items":3,"attempt":1}');
INSERT INTO "events" VALUES(24,'mapped','01a22c81-9d5c-74aa-8616-7e70b466fed4','StepStarted',1796043021660818,'{"step":"held","item":0,"attempt":1}');
INSERT INTO "events" VALUES(25,'mapped','01a22c81-9d5c-74aa-8616-7e715a76afe1','StepStarted',1796043021660818,'{"step":"held","item":1,"attempt":1}');
INSERT INTO "events" VALUES(26,'mapped','01a22c81-9d5c-74aa-8616-7e72be754a76','StepStarted',1796043021660818,'{"step":"held","item":2,"attempt":1}');
INSERT INTO "events" VALUES(27,'mapped','01a22c81-9d5c-74aa-8616-7e70b466fed4','StepCompleted',1796043021666476,'{"step":"held","item":0,"attempt":1}');
INSERT INTO "events" VALUES(28,'mapped','01a22c81-9d5c-74aa-8616-7e715a76afe1','StepCompleted',1796043021666476,'{"step":"held","item":1,"attempt":1}');
INSERT INTO "events" VALUES(29,'mapped','01a22c81-9d5c-74aa-8616-7e72be754a76','StepCompleted',1796043021666476,'{"step":"held","item":2,"attempt":1}');
INSERT INTO "events" VALUES(30,'mapped','01a22c81-9d5c-74aa-8616-7e6f8e5fa06c','StepCompleted',1796043021674730,'{"step":"held","attempt":1}');
INSERT INTO "events" VALUES(31,'mapped','01a22c81-9d6a-727e-a45e-f076f234a103','StepStarted',1796043021674730,'{"step":"total","attempt":1}');
INSERT INTO "events" VALUES(32,'mapped','01a22c81-9d6a-727e-a45e-f076f234a103','StepCompleted',1796043021678606,'{"step":"total","attempt":1}');
INSERT INTO "events" VALUES(33,'mapped',NULL,'ChainEnded',1796043021678606,'{"status":"completed"}');
INSERT INTO "events" VALUES(34,'nested',NULL,'ChainCreated',1796043021684688,'{"name":"around"}');
INSERT INTO "events" VALUES(35,'nested',NULL,'ChainStarted',1796043021694775,'{}');
INSERT INTO "events" VALUES(36,'nested','01a22c81-9d7e-7244-8871-c2ccc0134aab','StepStarted',1796043021694775,'{"step":"drawn","attempt":1}');
INSERT INTO "events" VALUES(37,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58',NULL,'ChainCreated',1796043021695981,'{"name":"drawn"}');
INSERT INTO "events" VALUES(38,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58',NULL,'ChainStarted',1796043021698780,'{}');
INSERT INTO "events" VALUES(39,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58','01a22c81-9d82-719c-a25d-fa21d6627952','StepStarted',1796043021698780,'{"step":"draw","attempt":1}');
INSERT INTO "events" VALUES(40,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58','01a22c81-9d82-719c-a25d-fa21d6627952','StepCompleted',1796043021700503,'{"step":"draw","attempt":1,"artifacts":["output v1"]}');
INSERT INTO "events" VALUES(41,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58','01a22c81-9d84-7524-b5d0-fa9bd8d421ad','StepStarted',1796043021700503,'{"step":"measure","attempt":1}');
INSERT INTO "events" VALUES(42,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58','01a22c81-9d84-7524-b5d0-fa9bd8d421ad','StepCompleted',1796043021701875,'{"step":"measure","attempt":1}');
INSERT INTO "events" VALUES(43,'01a22c81-9d7f-75a7-91cd-bd005dcc8c58',NULL,'ChainEnded',1796043021701875,'{"status":"completed"}');
INSERT INTO "events" VALUES(44,'nested','01a22c81-9d7e-7244-8871-c2ccc0134aab','StepCompleted',1796043021702820,'{"step":"drawn","attempt":1}');
INSERT INTO "events" VALUES(45,'nested','01a22c81-9d86-755b-bc25-2cdc5d2829f7','StepStarted',1796043021702820,'{"step":"held","attempt":1}');
INSERT INTO "events" VALUES(46,'nested','01a22c81-9d86-755b-bc25-2cdc5d2829f7','StepCompleted',1796043021703696,'{"step":"held","attempt":1}');
INSERT INTO "events" VALUES(47,'nested',NULL,'ChainEnded',1796043021703696,'{"status":"completed"}');
INSERT INTO "events" VALUES(48,'interrupted',NULL,'ChainCreated',1796043023798028,'{"name":"quotient"}');
INSERT INTO "events" VALUES(49,'interrupted',NULL,'ChainStarted',1796043023809893,'{}');
INSERT INTO "events" VALUES(50,'interrupted','01a22c81-a5c1-711e-b21b-0a4f56a37f31','StepStarted',1796043023809893,'{"step":"held","attempt":1}');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	applied_at BIGINT NOT NULL, 
	CONSTRAINT pk_schema_version PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(4,1796043021487445);
CREATE TABLE sessions (
	session_sha256 TEXT NOT NULL CONSTRAINT ck_sessions_session_sha256_whole CHECK (length(session_sha256) = 64), 
	key_id TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	CONSTRAINT pk_sessions PRIMARY KEY (session_sha256), 
	CONSTRAINT fk_sessions_key_id FOREIGN KEY(key_id) REFERENCES api_keys (id) ON DELETE CASCADE
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
CREATE TABLE webhook_cursors (
	target_sha256 TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	CONSTRAINT pk_webhook_cursors PRIMARY KEY (target_sha256)
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
	CONSTRAINT ck_workflows_status_word CHECK (status = 'executing' OR status = 'completed' OR status = 'queued' OR status = 'waiting_approval' OR status = 'failed' OR status = 'skipped' OR status = 'cancelled' OR status = 'cached'), 
	CONSTRAINT fk_workflows_latest_artifact_id FOREIGN KEY(id, latest_artifact_id) REFERENCES artifacts (workflow_id, id) DEFERRABLE INITIALLY DEFERRED, 
	CONSTRAINT fk_workflows_chain_id FOREIGN KEY(chain_id) REFERENCES chains (id) ON DELETE CASCADE
);
INSERT INTO "workflows" VALUES('01a22c81-9cbd-7229-bf22-9f4f6a8ffd39','completed','draw',NULL,'tests.store.recorded_chains:draw',NULL,NULL,NULL,NULL,'completed','01a22c81-9d32-71cc-abe8-50903a976747',1,NULL,'{"$artifact":"output"}',1796043021501452,1796043021501452,1796043021618787,NULL,NULL,NULL,NULL,'{"text":"water ","size":40000}',NULL,1796043021501452,1796043021618787);
INSERT INTO "workflows" VALUES('01a22c81-9d32-71cc-abe8-5091d3b9d954','completed','measure',NULL,'tests.store.recorded_chains:measure',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'40000',1796043021618787,1796043021618787,1796043021625334,NULL,NULL,NULL,NULL,'{"picture":{"$artifact":"01a22c81-9d32-71cc-abe8-50903a976747","name":"output","version":1}}',NULL,1796043021618787,1796043021625334);
INSERT INTO "workflows" VALUES('01a22c81-9d3e-7454-88c7-ee1527fda632','paused','draw',NULL,'tests.store.recorded_chains:draw',NULL,NULL,NULL,NULL,'waiting_approval','01a22c81-9d3f-710a-a149-9644cb1f4397',1,NULL,'{"$artifact":"output"}',1796043021630198,1796043021630198,NULL,NULL,NULL,NULL,NULL,'{"text":"lock ","size":100}',NULL,1796043021630198,1796043021631623);
INSERT INTO "workflows" VALUES('01a22c81-9d46-77a3-989c-7ca2326ed0bd','failed','held',NULL,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'42',1796043021638528,1796043021638528,1796043021639627,NULL,NULL,NULL,NULL,'{"number":41}',NULL,1796043021638528,1796043021639627);
INSERT INTO "workflows" VALUES('01a22c81-9d47-71e6-a579-fe8bb314703c','failed','divided',NULL,'tests.store.recorded_chains:divided',NULL,NULL,NULL,NULL,'failed',NULL,1,NULL,NULL,1796043021639627,1796043021639627,1796043021641398,'ZeroDivisionError: division by zero','E_STEP_RAISED','{"code":"E_STEP_RAISED","message":"ZeroDivisionError: division by zero","type":"ZeroDivisionError","traceback":"Traceback (most recent call last):\n  File \"/srv/towpath/tests/store/recorded_chains.py\", line 37, in divided\n    return whole / by\n           ~~~~~~^~~~\nZeroDivisionError: division by zero\n"}',NULL,'{"whole":42,"by":0}',NULL,1796043021639627,1796043021641398);
INSERT INTO "workflows" VALUES('01a22c81-9d5c-74aa-8616-7e6f8e5fa06c','mapped','held',NULL,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,3,'[2,3,4]',1796043021660818,1796043021660818,1796043021674730,NULL,NULL,NULL,NULL,NULL,NULL,1796043021660818,1796043021674730);
INSERT INTO "workflows" VALUES('01a22c81-9d5c-74aa-8616-7e70b466fed4','mapped','held',0,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'2',1796043021660818,1796043021660818,1796043021666476,NULL,NULL,NULL,NULL,'{"number":1}',NULL,1796043021660818,1796043021666476);
INSERT INTO "workflows" VALUES('01a22c81-9d5c-74aa-8616-7e715a76afe1','mapped','held',1,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'3',1796043021660818,1796043021660818,1796043021666476,NULL,NULL,NULL,NULL,'{"number":2}',NULL,1796043021660818,1796043021666476);
INSERT INTO "workflows" VALUES('01a22c81-9d5c-74aa-8616-7e72be754a76','mapped','held',2,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'4',1796043021660818,1796043021660818,1796043021666476,NULL,NULL,NULL,NULL,'{"number":3}',NULL,1796043021660818,1796043021666476);
INSERT INTO "workflows" VALUES('01a22c81-9d6a-727e-a45e-f076f234a103','mapped','total',NULL,'tests.store.recorded_chains:total',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'9',1796043021674730,1796043021674730,1796043021678606,NULL,NULL,NULL,NULL,'{"numbers":[2,3,4]}',NULL,1796043021674730,1796043021678606);
INSERT INTO "workflows" VALUES('01a22c81-9d7e-7244-8871-c2ccc0134aab','nested','drawn',NULL,'drawn',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'30',1796043021694775,1796043021694775,1796043021702820,NULL,NULL,NULL,NULL,'{"text":"tow ","size":30}',NULL,1796043021694775,1796043021702820);
INSERT INTO "workflows" VALUES('01a22c81-9d82-719c-a25d-fa21d6627952','01a22c81-9d7f-75a7-91cd-bd005dcc8c58','draw',NULL,'tests.store.recorded_chains:draw',NULL,NULL,NULL,NULL,'completed','01a22c81-9d84-7524-b5d0-fa9ab9bc6915',1,NULL,'{"$artifact":"output"}',1796043021698780,1796043021698780,1796043021700503,NULL,NULL,NULL,NULL,'{"text":"tow ","size":30}',NULL,1796043021698780,1796043021700503);
INSERT INTO "workflows" VALUES('01a22c81-9d84-7524-b5d0-fa9bd8d421ad','01a22c81-9d7f-75a7-91cd-bd005dcc8c58','measure',NULL,'tests.store.recorded_chains:measure',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'30',1796043021700503,1796043021700503,1796043021701875,NULL,NULL,NULL,NULL,'{"picture":{"$artifact":"01a22c81-9d84-7524-b5d0-fa9ab9bc6915","name":"output","version":1}}',NULL,1796043021700503,1796043021701875);
INSERT INTO "workflows" VALUES('01a22c81-9d86-755b-bc25-2cdc5d2829f7','nested','held',NULL,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'completed',NULL,1,NULL,'31',1796043021702820,1796043021702820,1796043021703696,NULL,NULL,NULL,NULL,'{"number":30}',NULL,1796043021702820,1796043021703696);
INSERT INTO "workflows" VALUES('01a22c81-a5c1-711e-b21b-0a4f56a37f31','interrupted','held',NULL,'tests.store.recorded_chains:held',NULL,NULL,NULL,NULL,'executing',NULL,1,NULL,NULL,1796043023809893,1796043023809893,NULL,NULL,NULL,NULL,NULL,'{"number":41}',NULL,1796043023809893,1796043023809893);
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
CREATE INDEX ix_workflows_status ON workflows (status) WHERE status = 'waiting_approval' OR status = 'failed';
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
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',50);
COMMIT;
