//! Statements that are about the audit alone. Rows of submits and claims are added by the statements that record those.

/// What is asked of rows of the audit, and their order: before the place `$1`, `$2`, within `$3` and `$4`, of a user, owner,
/// cluster, action, kind or task, at most `$11`.
macro_rules! audit_filter {
    () => {
        "(at, audit.id) < ($1, $2) AND at >= $3 AND at < $4
            AND ($5::text IS NULL OR actor = $5) AND ($6::text IS NULL OR owner = $6)
            AND ($7::text IS NULL OR cluster = $7) AND ($8::text IS NULL OR action = $8)
            AND ($9::text IS NULL OR kind = $9) AND ($10::uuid IS NULL OR audit.task_id = $10)
        ORDER BY at DESC, audit.id DESC LIMIT $11"
    };
}

/// A page of rows, and with each submit what came of its task, and of the node whose place in it is `place`.
macro_rules! audit_page {
    ($columns:literal, $from:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (
            SELECT audit.*, ", $columns, " AS place FROM audit ", $from, " AND ", audit_filter!(), "
        )
        SELECT page.at, page.id, page.kind, page.actor, page.role, page.address, page.agent, page.request, page.owner,
            page.cluster, page.action, page.task_id, page.items, page.reason, page.outcome, page.message,
            page.attempt, page.worker, page.detail,
            coalesce(tasks.status, audit_ends.status) AS ended_status,
            coalesce(tasks.total, audit_ends.total) AS total,
            coalesce(tasks.succeeded, audit_ends.succeeded) AS succeeded,
            coalesce(tasks.failed, audit_ends.failed) AS failed,
            coalesce(tasks.skipped, audit_ends.skipped) AS skipped,
            coalesce(tasks.cancelled, audit_ends.cancelled) AS cancelled,
            coalesce(tasks.error, audit_ends.error) AS ended_error,
            coalesce(tasks.finished_at, audit_ends.finished_at) AS ended_at,
            page.place - 1 AS node_idx, coalesce(items.state, tasks.rest, audit_ends.rest) AS node_state,
            items.effect AS node_effect,
            CASE WHEN items.state IS NULL THEN coalesce(tasks.error, audit_ends.error) ELSE items.message END
                AS node_message,
            coalesce(items.tries, 0) AS node_tries,
            coalesce(items.finished_at, tasks.finished_at, audit_ends.finished_at) AS node_finished_at,
            items.attempt AS node_attempt, claim.worker AS node_worker
        FROM page
        LEFT JOIN tasks ON tasks.id = page.task_id AND page.kind IN ('submit', 'retry')
        LEFT JOIN audit_ends ON audit_ends.task_id = page.task_id AND page.kind IN ('submit', 'retry')
        LEFT JOIN items ON items.task_id = page.task_id AND items.idx = page.place - 1
        LEFT JOIN audit AS claim ON claim.task_id = page.task_id AND claim.kind = 'claim'
            AND claim.attempt = items.attempt
        ORDER BY page.at DESC, page.id DESC"
        )
    };
}

statements! {
    /// A row of the audit that no other statement adds.
    NOTE = "
        INSERT INTO audit (kind, actor, role, address, agent, request, owner, cluster, action, task_id, items, reason,
            outcome, message, detail)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

    /// A page of the audit.
    AUDIT = audit_page!("NULL::integer", "WHERE kind <> 'claim'");

    /// A page of what the owner `$12` may read of it.
    AUDIT_OF_OWNER = audit_page!("NULL::integer", "WHERE kind <> 'claim' AND owner = $12");

    /// A page of what the user `$12` did.
    AUDIT_OF_ACTOR = audit_page!("NULL::integer", "WHERE kind <> 'claim' AND actor = $12");

    /// A page of what was done to the task `$12`.
    AUDIT_OF_TASK = audit_page!("NULL::integer", "WHERE audit.task_id = $12");

    /// A page of submits that name the node `$12`. There is no index of names: one would cost more for each item of each
    /// submit than reading through the names of a task costs when somebody asks.
    AUDIT_OF_NODE = audit_page!(
        "array_position(task_members.names, $12::text)",
        "JOIN task_members ON task_members.task_id = audit.task_id
            WHERE kind <> 'claim' AND kind IN ('submit', 'retry') AND task_members.names @> ARRAY[$12::text]"
    );

    /// A page of the nodes of the task `$1`, from index `$2`, also when it is pruned. As ITEMS, with the attempt of each
    /// result and its worker.
    AUDITED_NODES = "
        WITH task AS MATERIALIZED (
            SELECT rest, error, finished_at FROM tasks WHERE id = $1
            UNION ALL
            SELECT rest, error, finished_at FROM audit_ends WHERE task_id = $1
        )
        SELECT ($2 + member.place - 1)::integer AS node_idx, member.name AS node_name,
            coalesce(items.state, task.rest) AS node_state, items.effect AS node_effect,
            CASE WHEN items.state IS NULL THEN task.error ELSE items.message END AS node_message,
            coalesce(items.tries, 0) AS node_tries, coalesce(items.finished_at, task.finished_at) AS node_finished_at,
            items.attempt AS node_attempt, claim.worker AS node_worker
        FROM task
        JOIN task_members ON task_members.task_id = $1
        CROSS JOIN LATERAL unnest(names[$2 + 1 : $2 + $3]) WITH ORDINALITY AS member (name, place)
        LEFT JOIN items ON items.task_id = $1 AND items.idx = $2 + member.place - 1
        LEFT JOIN audit AS claim ON claim.task_id = $1 AND claim.kind = 'claim' AND claim.attempt = items.attempt
        ORDER BY member.place";

    /// Deletes the audit of the `$2` pruned tasks that are over for longest, for more than `$1` milliseconds; fewer when
    /// they have more than `$3` items. The first is always among them.
    PRUNE_AUDIT = "
        WITH old AS MATERIALIZED (
            SELECT task_id, total, finished_at FROM audit_ends
            WHERE finished_at <= now() - $1::bigint * interval '1 millisecond'
            ORDER BY finished_at LIMIT $2
            FOR UPDATE SKIP LOCKED
        ), sums AS (
            SELECT task_id, sum(total) OVER (ORDER BY finished_at, task_id) - total AS before FROM old
        ), chosen AS MATERIALIZED (
            SELECT task_id FROM sums WHERE before < $3
        ), results AS (
            DELETE FROM items USING chosen WHERE items.task_id = chosen.task_id
        ), members AS (
            DELETE FROM task_members USING chosen WHERE task_members.task_id = chosen.task_id
        ), told AS (
            DELETE FROM audit USING chosen WHERE audit.task_id = chosen.task_id
        )
        DELETE FROM audit_ends USING chosen WHERE audit_ends.task_id = chosen.task_id";

    /// Deletes the `$2` oldest rows of the audit that are older than `$1` milliseconds and tell of no task that is there
    /// or in the audit.
    PRUNE_NOTES = "
        DELETE FROM audit WHERE id IN (
            SELECT id FROM audit
            WHERE kind <> 'claim' AND at <= now() - $1::bigint * interval '1 millisecond'
                AND (task_id IS NULL OR (NOT EXISTS (SELECT FROM tasks WHERE tasks.id = audit.task_id)
                    AND NOT EXISTS (SELECT FROM audit_ends WHERE audit_ends.task_id = audit.task_id)))
            ORDER BY at LIMIT $2)";
}
