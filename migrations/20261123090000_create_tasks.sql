-- The record of tasks: what was asked for, who may work on it, and how each item ended.
-- Owners and clusters compare by bytes: they are grouped and looked up often and never sorted for people.
-- Statuses and states are text with a CHECK, not enums: a later release can widen a CHECK in one quick statement
-- inside a transaction, and take it back.

CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    action text NOT NULL,
    parameters jsonb NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    reason text,
    priority smallint NOT NULL,
    concurrency integer CHECK (concurrency > 0),
    item_timeout_ms bigint CHECK (item_timeout_ms > 0),
    max_attempts integer NOT NULL CHECK (max_attempts > 0),

    status text NOT NULL CHECK (status IN ('queued', 'running', 'paused', 'cancelling',
        'completed', 'completed_with_errors', 'failed', 'cancelled')),
    attempt bigint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    worker text,
    lease_until timestamptz,
    error text,

    total integer NOT NULL CHECK (total > 0),
    succeeded integer NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed integer NOT NULL DEFAULT 0 CHECK (failed >= 0),
    skipped integer NOT NULL DEFAULT 0 CHECK (skipped >= 0),
    cancelled integer NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    -- How every item ended that has no row in items, when the task was ended without a worker. Their message is the
    -- task's error. So a cancel of 100,000 items is one small write.
    rest text CHECK (rest IN ('failed', 'cancelled')),

    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT tasks_count_no_item_twice CHECK (succeeded + failed + skipped + cancelled <= total),
    CONSTRAINT tasks_end_with_all_items CHECK (finished_at IS NULL
        OR succeeded + failed + skipped + cancelled = total),
    CONSTRAINT tasks_end_once CHECK ((finished_at IS NOT NULL)
        = (status IN ('completed', 'completed_with_errors', 'failed', 'cancelled'))),
    CONSTRAINT tasks_leave_no_rest_while_open CHECK (rest IS NULL OR finished_at IS NOT NULL),
    CONSTRAINT tasks_held_under_a_lease CHECK (status NOT IN ('running', 'cancelling')
        OR (worker IS NOT NULL AND lease_until IS NOT NULL))
) WITH (
    -- Renewals and counts touch no indexed column; room in the page lets them stay in it.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- Pages of one user's tasks, newest first.
CREATE INDEX tasks_by_owner ON tasks (owner, id DESC);
-- What may be claimed: the best of each owner and cluster is the first of its group.
CREATE INDEX tasks_queued ON tasks (owner, cluster, priority DESC, id) WHERE status = 'queued';
-- The same, oldest first, for upkeep.
CREATE INDEX tasks_queued_by_age ON tasks (id) WHERE status = 'queued';
-- What is held: a few hundred rows, however many tasks there are.
CREATE INDEX tasks_held ON tasks (cluster, owner) WHERE status IN ('running', 'cancelling');
-- What is not over, for snapshots.
CREATE INDEX tasks_open ON tasks (owner, id DESC) WHERE finished_at IS NULL;
-- What may be pruned.
CREATE INDEX tasks_over ON tasks (finished_at) WHERE finished_at IS NOT NULL;

-- The frozen items of a task: one row, so that 100,000 items are one insert. Item n is names[n + 1].
CREATE TABLE task_members (
    task_id uuid PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    names text[] NOT NULL
);

-- One row per result, written once. An item without a row is pending, or ended with the rest of its task.
-- No foreign key: results are only ever inserted in the statement that holds the task's row, and the check of each row
-- doubles the cost of a batch. The trigger below deletes what a foreign key would.
CREATE TABLE items (
    task_id uuid NOT NULL,
    idx integer NOT NULL CHECK (idx >= 0),
    state text NOT NULL CHECK (state IN ('succeeded', 'failed', 'skipped', 'cancelled')),
    effect text CHECK (effect IN ('changed', 'already')),
    message text,
    tries integer NOT NULL CHECK (tries >= 0),
    finished_at timestamptz NOT NULL,
    PRIMARY KEY (task_id, idx)
) WITH (
    -- Only ever inserted to and deleted from.
    fillfactor = 100,
    autovacuum_vacuum_insert_scale_factor = 0.05
);

-- Pages of what went wrong; most items succeed and are found by the primary key.
CREATE INDEX items_not_succeeded ON items (task_id, state, idx) WHERE state <> 'succeeded';

CREATE FUNCTION delete_items_of_deleted_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM items USING deleted WHERE items.task_id = deleted.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER tasks_delete_items AFTER DELETE ON tasks
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION delete_items_of_deleted_tasks();

-- Terminal events, committed with the state they tell of and published after. One per task: a task ends once.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL UNIQUE REFERENCES tasks ON DELETE CASCADE,
    owner text COLLATE "C" NOT NULL,
    -- Kept as written: nothing looks inside, and jsonb refuses some texts that JSON allows.
    event json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);

CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;

-- A repeated submit finds the task that its key made.
CREATE TABLE idempotency_keys (
    owner text COLLATE "C" NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    task_id uuid NOT NULL UNIQUE REFERENCES tasks ON DELETE CASCADE,
    PRIMARY KEY (owner, key)
);

-- When each owner was last given a worker, so that those who wait longest go first.
CREATE TABLE owners (
    owner text COLLATE "C" PRIMARY KEY,
    last_served_at timestamptz NOT NULL
) WITH (fillfactor = 70);
