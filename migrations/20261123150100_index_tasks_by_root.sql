-- no-transaction
-- The retries of a first task. Empty where nothing was retried.
CREATE INDEX CONCURRENTLY tasks_by_root ON tasks (root_id, created_at, id) WHERE root_id IS NOT NULL;
