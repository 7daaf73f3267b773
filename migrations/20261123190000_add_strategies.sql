-- Strategies: waves, orders, windows, and nodes that only one task acts on at a time.
--
-- The release before knows none of it. It goes on with every other task: one with a strategy has an action that it does not
-- know ('cordon/strategy'), so it neither claims it nor lists it. It takes no nodes, so while both run its tasks may act on
-- nodes that a task of this release holds.
ALTER TABLE tasks
    -- {"canary", "waves", "order", "soak_ms", "gate", "max_unavailable", "windows"}.
    ADD COLUMN strategy jsonb,
    -- Waves up to this number have no gate and no pause before them any more.
    ADD COLUMN opened integer NOT NULL DEFAULT 0,
    -- Nobody claims it before then while it is queued.
    ADD COLUMN rests_until timestamptz;

-- In which order the items start, by index, once the first attempt has made it. NULL: as they were given.
ALTER TABLE task_members ADD COLUMN start_order integer[];

-- Nodes that a task acts on or is about to. It holds one for as long as its attempt holds the task under a lease: what is
-- left of others counts for nothing and is taken over, so nothing has to be cleared after a crash.
CREATE TABLE node_locks (
    cluster text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    task_id uuid NOT NULL,
    attempt bigint NOT NULL,
    idx integer NOT NULL,
    taken_at timestamptz NOT NULL,
    PRIMARY KEY (cluster, name)
) WITH (
    -- Rows live for as long as an item is in work.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.05
);

CREATE INDEX node_locks_by_task ON node_locks (task_id, idx);

-- What a task left that went while a worker still believed in it.
CREATE FUNCTION delete_locks_of_deleted_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM node_locks USING deleted WHERE node_locks.task_id = deleted.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER tasks_delete_locks AFTER DELETE ON tasks
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION delete_locks_of_deleted_tasks();
