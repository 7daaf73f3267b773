-- Who did what, why, from where, and what came of it.
--
-- What came of each node is not written twice: results (items), names (task_members) and how the task ended (audit_ends)
-- stay for as long as the audit of their task, and are deleted with it. So tasks are pruned without their items from now on.
--
-- The release before goes on: what it accepts is not in the audit and is deleted with its task, as before, by the trigger
-- below; results that it records have no attempt.

-- One row per deed, added in the transaction of what it tells of. Rows outlive their tasks, so nothing refers to those.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    -- Who asked; nobody did when a worker claimed a task.
    actor text COLLATE "C" CHECK (actor IS NOT NULL OR kind = 'claim'),
    role text,
    address text,
    agent text,
    request text,
    -- Whose task it is; of what has no task, who asked.
    owner text COLLATE "C" NOT NULL,
    cluster text COLLATE "C",
    action text COLLATE "C",
    task_id uuid,
    items integer,
    reason text,
    outcome text NOT NULL,
    message text,
    attempt bigint,
    worker text,
    detail jsonb
) WITH (
    -- Only ever inserted to and deleted from.
    fillfactor = 100,
    autovacuum_vacuum_insert_scale_factor = 0.05
);

CREATE INDEX audit_by_time ON audit (at, id) WHERE kind <> 'claim';
CREATE INDEX audit_by_owner ON audit (owner, at, id) WHERE kind <> 'claim';
CREATE INDEX audit_by_actor ON audit (actor, at, id) WHERE kind <> 'claim';
CREATE INDEX audit_by_task ON audit (task_id, at, id) WHERE task_id IS NOT NULL;

-- How a task of the audit ended, from when it is pruned on.
CREATE TABLE audit_ends (
    task_id uuid PRIMARY KEY,
    status text NOT NULL,
    total integer NOT NULL,
    succeeded integer NOT NULL,
    failed integer NOT NULL,
    skipped integer NOT NULL,
    cancelled integer NOT NULL,
    -- As of tasks.
    rest text,
    error text,
    finished_at timestamptz NOT NULL
) WITH (fillfactor = 100);

CREATE INDEX audit_ends_by_age ON audit_ends (finished_at);

CREATE FUNCTION refuse_changes_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_changes_of_audit();
CREATE TRIGGER audit_ends_are_never_changed BEFORE UPDATE ON audit_ends
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_changes_of_audit();

-- In the order in which every statement takes them, so that nobody waits in a circle.
LOCK TABLE tasks, task_members, items IN ACCESS EXCLUSIVE MODE;

-- Under which attempt a result was recorded; with the claim of that attempt it tells the worker.
ALTER TABLE items ADD COLUMN attempt integer;

-- Names stay when their task is deleted, if it is in the audit.
ALTER TABLE task_members DROP CONSTRAINT task_members_task_id_fkey;

DROP TRIGGER tasks_delete_items ON tasks;
DROP FUNCTION delete_items_of_deleted_tasks();

-- What is in the audit keeps its items, and gains how it ended; the items of everything else go with it.
CREATE FUNCTION leave_deleted_tasks_to_the_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_ends
        (task_id, status, total, succeeded, failed, skipped, cancelled, rest, error, finished_at)
    SELECT id, status, total, succeeded, failed, skipped, cancelled, rest, error, coalesce(finished_at, now())
    FROM deleted WHERE EXISTS (SELECT FROM audit WHERE audit.task_id = deleted.id);
    DELETE FROM items USING deleted WHERE items.task_id = deleted.id
        AND NOT EXISTS (SELECT FROM audit_ends WHERE audit_ends.task_id = deleted.id);
    DELETE FROM task_members USING deleted WHERE task_members.task_id = deleted.id
        AND NOT EXISTS (SELECT FROM audit_ends WHERE audit_ends.task_id = deleted.id);
    RETURN NULL;
END
$$;

CREATE TRIGGER tasks_go_to_the_audit AFTER DELETE ON tasks
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION leave_deleted_tasks_to_the_audit();
