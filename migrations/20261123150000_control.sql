-- Control of a running task: a failure budget, and retries of what did not end well. The release before knows none of
-- these columns: it reads and writes tasks as before, and its tasks have no budget and no parent.
ALTER TABLE tasks
    -- How many items may fail before the task is stopped: {"failed", "percent", "consecutive", "then"}.
    ADD COLUMN failure_budget jsonb,
    -- Failures from before the budget began, which do not count against it. NULL: the next claim begins a new one.
    ADD COLUMN failed_before integer DEFAULT 0,
    -- Whether the budget calls the task off, so that it ends as failed.
    ADD COLUMN aborted boolean NOT NULL DEFAULT false,
    -- Why the budget paused it or calls it off.
    ADD COLUMN message text,
    -- The task that it retries, and the first one of that family. No foreign keys: those are over for longer, so they are
    -- pruned first.
    ADD COLUMN parent_id uuid,
    ADD COLUMN root_id uuid;
