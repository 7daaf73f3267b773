//! Every statement of the store, so that they can be read, prepared and explained in one place.
//!
//! Times are the database's: `now()` for what people see, `clock_timestamp()` for leases, because a transaction may
//! wait for a lock and a lease must not have begun before the wait.

/// The columns of a task, as [`super::rows::TaskRow`] reads them.
macro_rules! columns {
    () => {
        "id, owner, action, parameters, cluster, reason, priority, concurrency, item_timeout_ms, max_attempts, \
         failure_budget, failed_before, strategy, may, opened, rests_until, parent_id, status, attempt, tries, aborted, total, succeeded, failed, \
         skipped, cancelled, worker, message, error, created_at, started_at, finished_at, updated_at"
    };
}

/// The items of task `$1` as `merged`, each with its newest result in the family: what it came to there, or in the newest
/// retry after it that ran it. The names of the retries' items are all that is compared.
macro_rules! merged {
    () => {
        "self AS MATERIALIZED (
            SELECT id, rest, coalesce(root_id, id) AS root_id, created_at FROM tasks WHERE id = $1
        ), ran AS (
            SELECT member.name, coalesce(items.state, later.rest) AS state, later.created_at, later.id
            FROM self
            JOIN tasks AS later ON later.root_id = self.root_id
                AND (later.created_at, later.id) > (self.created_at, self.id)
            JOIN task_members ON task_members.task_id = later.id
            CROSS JOIN LATERAL unnest(names) WITH ORDINALITY AS member (name, place)
            LEFT JOIN items ON items.task_id = later.id AND items.idx = member.place - 1
        ), newest AS (
            SELECT DISTINCT ON (name) name, state FROM ran WHERE state <> 'cancelled'
            ORDER BY name, created_at DESC, id DESC
        ), merged AS (
            SELECT member.name, member.place, coalesce(newest.state, items.state, self.rest) AS state
            FROM self
            JOIN task_members ON task_members.task_id = self.id
            CROSS JOIN LATERAL unnest(names) WITH ORDINALITY AS member (name, place)
            LEFT JOIN items ON items.task_id = self.id AND items.idx = member.place - 1
            LEFT JOIN newest ON newest.name = member.name
        )"
    };
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $($sql:expr),+;)*) => {
        $($(#[$doc])* pub const $name: &str = concat!($($sql),+);)*

        /// Every statement by name.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

pub mod audit;

statements! {
    /// Key, task, members and audit in one. No row comes back when the key was there before, or when the owner has `$14` tasks
    /// that are not over.
    CREATE = "
        WITH room AS MATERIALIZED (
            SELECT count(*) < $14 AS is_left FROM (
                SELECT FROM tasks WHERE owner = $2 AND finished_at IS NULL LIMIT $14) AS open
        ), key AS (
            INSERT INTO idempotency_keys (owner, key, fingerprint, task_id)
            SELECT $2, $12, $13, $1 FROM room WHERE is_left AND $12::text IS NOT NULL
            ON CONFLICT (owner, key) DO NOTHING
            RETURNING task_id
        ), task AS (
            INSERT INTO tasks (id, owner, action, parameters, cluster, reason, priority, concurrency,
                item_timeout_ms, max_attempts, failure_budget, parent_id, root_id, strategy, may, status, total)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $15, $16, $17, $18, $19, 'queued', cardinality($11::text[])
            FROM room WHERE is_left AND ($12::text IS NULL OR EXISTS (SELECT FROM key))
            RETURNING ", columns!(), "
        ), members AS (
            INSERT INTO task_members (task_id, names) SELECT id, $11 FROM task
        ), audited AS (
            INSERT INTO audit (kind, actor, role, address, agent, request, owner, cluster, action, task_id, items,
                reason, outcome, detail)
            SELECT CASE WHEN parent_id IS NULL THEN 'submit' ELSE 'retry' END, owner, $20, $21, $22, $23, owner, cluster,
                split_part(action, '/', 1), id, total, reason, 'accepted', $24
            FROM task
        )
        SELECT ", columns!(), " FROM task";

    /// Tasks of an owner that are not over; no more than `$2` are counted.
    COUNT_OPEN = "
        SELECT count(*) FROM (SELECT FROM tasks WHERE owner = $1 AND finished_at IS NULL LIMIT $2) AS open";

    /// The task that a key made, and the fingerprint of the body it came with.
    FIND_BY_KEY = "
        SELECT fingerprint, task_id FROM idempotency_keys WHERE owner = $1 AND key = $2";

    /// One retry of a family at a time, until the end of the transaction.
    LOCK_FAMILY = "SELECT pg_advisory_xact_lock(20264, hashtext($1))";

    /// The first task of a family: the task itself, unless it is a retry.
    ROOT = "SELECT coalesce(root_id, id) FROM tasks WHERE id = $1";

    /// How many retries come of a first task, and one of them that is not over.
    FAMILY = "
        SELECT count(*), (array_agg(id) FILTER (WHERE finished_at IS NULL))[1] FROM tasks WHERE root_id = $1";

    /// The items of a task whose newest results are in the states `$2`, in order.
    LEFT_TO_RETRY = "
        WITH ", merged!(), "
        SELECT coalesce(array_agg(name ORDER BY place), '{}') FROM merged WHERE state = ANY ($2)";

    /// The items of a task by their newest results.
    MERGED = "
        WITH ", merged!(), "
        SELECT count(*)::integer AS total,
            (count(*) FILTER (WHERE state = 'succeeded'))::integer AS succeeded,
            (count(*) FILTER (WHERE state = 'failed'))::integer AS failed,
            (count(*) FILTER (WHERE state = 'skipped'))::integer AS skipped,
            (count(*) FILTER (WHERE state = 'cancelled'))::integer AS cancelled
        FROM merged";

    /// The retries of a task, oldest first.
    RETRIES = "
        SELECT ", columns!(), " FROM tasks
        WHERE root_id = (SELECT coalesce(root_id, id) FROM tasks WHERE id = $1) AND parent_id = $1
        ORDER BY created_at, id";

    /// One task.
    FIND = "SELECT ", columns!(), " FROM tasks WHERE id = $1";

    /// One task, locked against every other change, and the time of the transaction.
    LOCK = "SELECT ", columns!(), ", now() AS at FROM tasks WHERE id = $1 FOR NO KEY UPDATE";

    /// A page of everybody's tasks.
    LIST = "
        SELECT ", columns!(), " FROM tasks
        WHERE id < $1 AND (cardinality($2::text[]) = 0 OR status = ANY ($2)) AND ($3::text IS NULL OR cluster = $3)
        ORDER BY id DESC LIMIT $4";

    /// A page of everybody's tasks that are not over.
    LIST_OPEN = "
        SELECT ", columns!(), " FROM tasks
        WHERE finished_at IS NULL AND id < $1 AND status = ANY ($2) AND ($3::text IS NULL OR cluster = $3)
        ORDER BY id DESC LIMIT $4";

    /// A page of one user's tasks.
    LIST_OF_OWNER = "
        SELECT ", columns!(), " FROM tasks
        WHERE owner = $5 AND id < $1 AND (cardinality($2::text[]) = 0 OR status = ANY ($2))
            AND ($3::text IS NULL OR cluster = $3)
        ORDER BY id DESC LIMIT $4";

    /// What is not over of one user, and the newest that is.
    SNAPSHOT = "
        SELECT * FROM (
            SELECT ", columns!(), " FROM tasks WHERE owner = $1 AND finished_at IS NULL
            UNION ALL
            (SELECT ", columns!(), " FROM tasks WHERE owner = $1 AND finished_at IS NOT NULL
                ORDER BY id DESC LIMIT $2)
        ) AS seen ORDER BY id DESC";

    /// A page of items with their results, from index `$2`. An item without a row ended with the rest of its task.
    ITEMS = "
        SELECT ($2 + member.place - 1)::integer AS idx, member.name,
            coalesce(items.state, tasks.rest) AS state, items.effect,
            CASE WHEN items.state IS NULL THEN tasks.error ELSE items.message END AS message,
            coalesce(items.tries, 0) AS tries, coalesce(items.finished_at, tasks.finished_at) AS finished_at
        FROM tasks
        JOIN task_members ON task_members.task_id = tasks.id
        CROSS JOIN LATERAL unnest(names[$2 + 1 : $2 + $3]) WITH ORDINALITY AS member (name, place)
        LEFT JOIN items ON items.task_id = $1 AND items.idx = $2 + member.place - 1
        WHERE tasks.id = $1
        ORDER BY member.place";

    /// A page of the items that ended in a state, from index `$2`: those with a row, and those that ended with the rest.
    /// The names are cut out of the array once.
    ITEMS_IN_STATE = "
        WITH page AS MATERIALIZED (
            (SELECT idx, state, effect, message, tries, finished_at FROM items
                WHERE task_id = $1 AND idx >= $2 AND state = $4
                ORDER BY idx LIMIT $3)
            UNION ALL
            (SELECT place, tasks.rest, NULL, tasks.error, 0, tasks.finished_at
                FROM tasks CROSS JOIN LATERAL generate_series($2::integer, total - 1) AS place
                WHERE tasks.id = $1 AND rest = $4
                    AND NOT EXISTS (SELECT FROM items WHERE task_id = $1 AND idx = place)
                ORDER BY place LIMIT $3)
            ORDER BY idx LIMIT $3
        ), bounds AS MATERIALIZED (
            SELECT min(idx) AS low, max(idx) AS high FROM page
        )
        SELECT page.idx, member.name, page.state, page.effect, page.message, page.tries, page.finished_at
        FROM task_members
        CROSS JOIN bounds
        CROSS JOIN LATERAL unnest(names[low + 1 : high + 1]) WITH ORDINALITY AS member (name, place)
        JOIN page ON page.idx = low + member.place - 1
        WHERE task_members.task_id = $1
        ORDER BY page.idx";

    /// All names of a task that is not over, and the indexes that have a result.
    PENDING = "
        SELECT names, ARRAY(SELECT idx FROM items WHERE task_id = $1) AS done
        FROM task_members JOIN tasks ON tasks.id = task_members.task_id
        WHERE task_id = $1 AND finished_at IS NULL";

    /// The best tasks to claim, best first; `$1` per cluster, at most `$2`, of the actions `$3` that we know.
    ///
    /// A recursive walk over the partial index jumps from one pair of owner and cluster to the next, so the cost
    /// follows the number of pairs that wait, not the number of tasks. Each owner's candidates after the first count
    /// as if those before were held: that is the order in which one claimer after the other would choose, and it lets
    /// parallel claimers go down the same list. The more pairs, the fewer candidates of each are looked at.
    SHORTLIST = "
        WITH RECURSIVE pairs AS (
            (SELECT owner, cluster FROM tasks WHERE status = 'queued' ORDER BY owner, cluster LIMIT 1)
            UNION ALL
            SELECT next.owner, next.cluster FROM pairs CROSS JOIN LATERAL (
                SELECT owner, cluster FROM tasks
                WHERE status = 'queued' AND (owner, cluster) > (pairs.owner, pairs.cluster)
                ORDER BY owner, cluster LIMIT 1
            ) AS next
        ), held AS MATERIALIZED (
            SELECT id, owner, cluster, action, priority, tries, max_attempts, lease_until
            FROM tasks WHERE status IN ('running', 'cancelling')
        ), by_cluster AS MATERIALIZED (
            SELECT cluster, count(*) AS n FROM held GROUP BY cluster
        ), by_owner AS (
            SELECT owner, count(*) AS n FROM held GROUP BY owner
        ), free AS MATERIALIZED (
            SELECT owner, cluster FROM pairs LEFT JOIN by_cluster USING (cluster) WHERE coalesce(by_cluster.n, 0) < $1
        ), candidates AS (
            SELECT best.id, free.owner, best.priority
            FROM free CROSS JOIN LATERAL (
                SELECT id, priority FROM tasks
                WHERE status = 'queued' AND owner = free.owner AND cluster = free.cluster AND action = ANY ($3)
                    AND (rests_until IS NULL OR rests_until <= now())
                ORDER BY priority DESC, id LIMIT (SELECT greatest(1, $2 / count(*)) FROM free)
            ) AS best
            UNION ALL
            SELECT id, owner, priority FROM held JOIN by_cluster USING (cluster)
            WHERE lease_until <= clock_timestamp() AND tries < max_attempts AND action = ANY ($3) AND by_cluster.n <= $1
        ), ranked AS (
            SELECT id, owner, priority,
                row_number() OVER (PARTITION BY owner ORDER BY priority DESC, id) - 1 AS before
            FROM candidates
        )
        SELECT ranked.id
        FROM ranked LEFT JOIN by_owner USING (owner) LEFT JOIN owners USING (owner)
        ORDER BY coalesce(by_owner.n, 0) + ranked.before, owners.last_served_at NULLS FIRST,
            ranked.priority DESC, ranked.id
        LIMIT $2";

    /// The first of a shortlist that nobody else is just claiming and that may still be claimed.
    TAKE = "
        SELECT ", columns!(), ", now() AS at FROM tasks
        WHERE id = ANY ($1) AND ((status = 'queued' AND (rests_until IS NULL OR rests_until <= now()))
            OR (status IN ('running', 'cancelling')
            AND lease_until <= clock_timestamp() AND tries < max_attempts))
        ORDER BY array_position($1, id) LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED";

    /// One claim at a time on a cluster, until the end of the transaction.
    LOCK_CLUSTER = "SELECT pg_advisory_xact_lock(20262, hashtext($1))";

    /// Tasks held on a cluster besides this one.
    HELD_ON_CLUSTER = "
        SELECT count(*) FROM tasks WHERE cluster = $1 AND status IN ('running', 'cancelling') AND id <> $2";

    /// Writes what a change left of a task, and what goes with it: without a worker it holds no nodes; with a new lease of `$2` milliseconds, that its owner
    /// was served and who claimed it; with a terminal event `$13`, the outbox row, whose id comes back; with `$14`, how every item ends that
    /// has no result. Without a new lease the old one stays, or goes with the worker.
    SAVE = "
        WITH saved AS (
            UPDATE tasks SET
                lease_until = CASE WHEN $5::text IS NULL THEN NULL
                    ELSE coalesce(clock_timestamp() + $2::bigint * interval '1 millisecond', lease_until) END,
                status = $3, attempt = $4, worker = $5, tries = $6, error = $7, failed = $8, cancelled = $9,
                started_at = $10, finished_at = $11, updated_at = $12, rest = coalesce($14, rest),
                concurrency = $15, failed_before = $16, aborted = $17, message = $18, opened = $19, rests_until = $20
            WHERE id = $1
            RETURNING id, owner, cluster, action
        ), served AS (
            INSERT INTO owners (owner, last_served_at)
            SELECT owner, clock_timestamp() FROM saved WHERE $2::bigint IS NOT NULL
            ON CONFLICT (owner) DO UPDATE SET last_served_at = excluded.last_served_at
        ), audited AS (
            INSERT INTO audit (kind, owner, cluster, action, task_id, outcome, attempt, worker)
            SELECT 'claim', owner, cluster, split_part(action, '/', 1), id, 'claimed', $4, $5
            FROM saved WHERE $2::bigint IS NOT NULL
        ), mine AS (
            SELECT cluster, name FROM node_locks WHERE task_id = $1 AND $5::text IS NULL ORDER BY name FOR UPDATE
        ), freed AS (
            DELETE FROM node_locks USING mine
            WHERE node_locks.cluster = mine.cluster AND node_locks.name = mine.name
        )
        INSERT INTO outbox (task_id, owner, event)
        SELECT id, owner, $13::text::json FROM saved WHERE $13::text IS NOT NULL
        RETURNING id";

    /// The terminal event of a task.
    FIND_EVENT = "SELECT id FROM outbox WHERE task_id = $1";

    /// Renews the leases of `$1` under the attempts `$2`, and tells of each in order.
    RENEW = "
        WITH asked AS MATERIALIZED (
            SELECT id, attempt, place FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS a (id, attempt, place)
        ), renewed AS (
            UPDATE tasks SET lease_until = clock_timestamp() + $3::bigint * interval '1 millisecond'
            FROM asked
            WHERE tasks.id = asked.id AND tasks.attempt = asked.attempt
                AND tasks.worker IS NOT NULL AND tasks.finished_at IS NULL
            RETURNING tasks.id, tasks.status, tasks.concurrency
        )
        SELECT renewed.status, renewed.concurrency FROM asked LEFT JOIN renewed USING (id) ORDER BY asked.place";

    /// The fence, the results, and the counts of those that were really added; their nodes are free. No row: the fence
    /// held. Nodes are locked in the order of their names, here and wherever they are taken, so that nobody waits in a
    /// circle.
    RECORD = "
        WITH held AS MATERIALIZED (
            SELECT id, total FROM tasks WHERE id = $1 AND attempt = $2 AND finished_at IS NULL FOR NO KEY UPDATE
        ), added AS (
            INSERT INTO items (task_id, idx, state, effect, message, tries, finished_at, attempt)
            SELECT held.id, r.idx, r.state, r.effect, r.message, r.tries, r.finished_at, $2::bigint
            FROM held CROSS JOIN unnest($3::integer[], $4::text[], $5::text[], $6::text[], $7::integer[],
                $8::timestamptz[]) AS r (idx, state, effect, message, tries, finished_at)
            WHERE r.idx < held.total
            ON CONFLICT DO NOTHING
            RETURNING state
        ), mine AS (
            SELECT cluster, name FROM node_locks
            WHERE task_id = (SELECT id FROM held) AND idx = ANY ($3) ORDER BY name FOR UPDATE
        ), freed AS (
            DELETE FROM node_locks USING mine
            WHERE node_locks.cluster = mine.cluster AND node_locks.name = mine.name
        ), sums AS MATERIALIZED (
            SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                count(*) FILTER (WHERE state = 'failed') AS failed,
                count(*) FILTER (WHERE state = 'skipped') AS skipped,
                count(*) FILTER (WHERE state = 'cancelled') AS cancelled
            FROM added
        )
        UPDATE tasks SET succeeded = tasks.succeeded + sums.succeeded, failed = tasks.failed + sums.failed,
            skipped = tasks.skipped + sums.skipped, cancelled = tasks.cancelled + sums.cancelled, updated_at = now()
        FROM held, sums WHERE tasks.id = held.id
        RETURNING tasks.total, tasks.succeeded, tasks.failed, tasks.skipped, tasks.cancelled";

    /// Milliseconds until the first lease ends, or the first queued task has rested, of the tasks that may then be claimed,
    /// of the actions `$1` that we know.
    NEXT_LAPSE = "
        SELECT (extract(epoch FROM least(
            (SELECT min(lease_until) FROM tasks
                WHERE status IN ('running', 'cancelling') AND tries < max_attempts AND action = ANY ($1)),
            (SELECT min(rests_until) FROM tasks
                WHERE status = 'queued' AND rests_until > clock_timestamp() AND action = ANY ($1))
        ) - clock_timestamp()) * 1000)::bigint";

    /// Keeps the order of a task's items, unless one is kept.
    KEEP_ORDER = "
        UPDATE task_members SET start_order = coalesce(start_order, $3) FROM tasks
        WHERE task_members.task_id = $1 AND tasks.id = $1 AND tasks.attempt = $2 AND tasks.finished_at IS NULL
        RETURNING start_order";

    /// The order that is kept.
    ORDER = "SELECT start_order FROM task_members WHERE task_id = $1";

    /// Takes the nodes `$3` for the items `$4`: those that are free, that the task holds, or that are held by an attempt
    /// without a lease. One that was taken after this statement began is not judged: its holder may not be seen yet.
    /// Tells whether the fence held, and which nodes were taken.
    TAKE_NODES = "
        WITH fence AS MATERIALIZED (
            SELECT id, cluster, attempt FROM tasks
            WHERE id = $1 AND attempt = $2 AND worker IS NOT NULL AND lease_until > clock_timestamp()
        ), taken AS (
            INSERT INTO node_locks AS held (cluster, name, task_id, attempt, idx, taken_at)
            SELECT fence.cluster, wanted.name, fence.id, fence.attempt, wanted.idx, clock_timestamp()
            FROM fence CROSS JOIN unnest($3::text[], $4::integer[]) AS wanted (name, idx)
            ORDER BY wanted.name COLLATE \"C\"
            ON CONFLICT (cluster, name) DO UPDATE SET
                task_id = excluded.task_id, attempt = excluded.attempt, idx = excluded.idx, taken_at = excluded.taken_at
            WHERE held.task_id = excluded.task_id OR (held.taken_at < statement_timestamp() AND NOT EXISTS (
                SELECT FROM tasks WHERE tasks.id = held.task_id AND tasks.attempt = held.attempt
                    AND tasks.worker IS NOT NULL AND tasks.lease_until > clock_timestamp()))
            RETURNING name
        )
        SELECT EXISTS (SELECT FROM fence) AS holds, ARRAY(SELECT name FROM taken) AS taken";

    /// Who holds nodes of a task's cluster.
    HOLDERS = "
        SELECT node_locks.name, holder.id, holder.owner, holder.action
        FROM tasks JOIN node_locks ON node_locks.cluster = tasks.cluster AND node_locks.name = ANY ($2)
        JOIN tasks AS holder ON holder.id = node_locks.task_id
        WHERE tasks.id = $1 AND holder.id <> $1";

    /// Ends of the tasks `$1` that were committed at least `$2` milliseconds ago.
    ENDED = "
        SELECT id, owner, event FROM outbox
        WHERE task_id = ANY ($1) AND created_at <= now() - $2::bigint * interval '1 millisecond'";

    /// Tasks of the owners `$1` that are not over, or were less than `$2` milliseconds ago; at most `$3`.
    WATCHED = "
        SELECT owner, id, false AS over FROM tasks WHERE owner = ANY ($1) AND finished_at IS NULL
        UNION ALL
        SELECT owner, id, true FROM tasks
        WHERE owner = ANY ($1) AND finished_at > now() - $2::bigint * interval '1 millisecond'
        LIMIT $3";

    /// Marks outbox rows.
    PUBLISHED = "UPDATE outbox SET published_at = now() WHERE id = ANY ($1) AND published_at IS NULL";

    /// What may be claimed, oldest first.
    CLAIMABLE = "
        (SELECT id FROM tasks WHERE status = 'queued' AND (rests_until IS NULL OR rests_until <= now())
            ORDER BY id LIMIT $1)
        UNION ALL
        SELECT id FROM tasks WHERE status IN ('running', 'cancelling')
            AND lease_until <= clock_timestamp() AND tries < max_attempts
        ORDER BY id LIMIT $1";

    /// Lapsed tasks that used up their tries.
    USED_UP = "
        SELECT id FROM tasks WHERE status IN ('running', 'cancelling')
            AND lease_until <= clock_timestamp() AND tries >= max_attempts
        ORDER BY id LIMIT $1";

    /// One of them, if it still is one and nobody else is giving it up.
    LOCK_USED_UP = "
        SELECT ", columns!(), ", now() AS at FROM tasks
        WHERE id = $1 AND status IN ('running', 'cancelling')
            AND lease_until <= clock_timestamp() AND tries >= max_attempts
        FOR NO KEY UPDATE SKIP LOCKED";

    /// Events older than `$1` milliseconds that are not known to be published.
    UNPUBLISHED = "
        SELECT id, owner, event FROM outbox
        WHERE published_at IS NULL AND created_at <= now() - $1::bigint * interval '1 millisecond'
        ORDER BY id LIMIT $2";

    /// Deletes the `$2` tasks that are over for longest, for more than `$1` milliseconds; fewer when they have more
    /// than `$3` items. The first is always among them.
    PRUNE = "
        WITH old AS MATERIALIZED (
            SELECT id, total, finished_at FROM tasks
            WHERE finished_at <= now() - $1::bigint * interval '1 millisecond'
            ORDER BY finished_at LIMIT $2
            FOR UPDATE SKIP LOCKED
        ), sums AS (
            SELECT id, sum(total) OVER (ORDER BY finished_at, id) - total AS before FROM old
        )
        DELETE FROM tasks USING sums WHERE tasks.id = sums.id AND sums.before < $3";

    /// Forgets `$2` owners without tasks that were not served for `$1` milliseconds.
    FORGET_OWNERS = "
        DELETE FROM owners WHERE owner IN (
            SELECT owner FROM owners
            WHERE last_served_at <= now() - $1::bigint * interval '1 millisecond'
                AND NOT EXISTS (SELECT FROM tasks WHERE tasks.owner = owners.owner)
            LIMIT $2)";

    /// Held tasks of which nothing was recorded for `$1` milliseconds: renewing a lease is no news of a task.
    STALLED = "
        SELECT id, worker, (extract(epoch FROM clock_timestamp() - updated_at) * 1000)::bigint AS quiet_ms FROM tasks
        WHERE status IN ('running', 'cancelling')
            AND updated_at <= clock_timestamp() - $1::bigint * interval '1 millisecond'
        ORDER BY updated_at LIMIT $2";

    /// What waits.
    BACKLOG = "
        SELECT (SELECT count(*) FROM tasks
                WHERE status = 'queued' AND (rests_until IS NULL OR rests_until <= now())) AS queued,
            (SELECT count(*) FROM tasks WHERE status IN ('running', 'cancelling')) AS held,
            (SELECT count(*) FROM tasks WHERE status IN ('running', 'cancelling')
                AND lease_until <= clock_timestamp()) AS lapsed,
            (SELECT count(*) FROM outbox WHERE published_at IS NULL) AS outbox,
            (SELECT (extract(epoch FROM clock_timestamp() - created_at) * 1000)::bigint FROM tasks
                WHERE status = 'queued' AND (rests_until IS NULL OR rests_until <= now())
                ORDER BY id LIMIT 1) AS oldest_ms";

    /// Takes the lead for as long as the session lives.
    TAKE_LEAD = "SELECT pg_try_advisory_lock(20261, 0)";

    /// Whether this session still has the lead.
    HAS_LEAD = "
        SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
            AND classid = 20261 AND objid = 0 AND objsubid = 2 AND granted)";
}
