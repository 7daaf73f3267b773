-- no-transaction
-- Tasks that wait for a time, by when that is.
CREATE INDEX CONCURRENTLY tasks_resting ON tasks (rests_until) WHERE rests_until IS NOT NULL AND status = 'queued';
