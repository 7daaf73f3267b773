//! Every statement of the bus. A test prepares each against the migrated schema.

/// Publishes an event: see `bus_publish_v2` in the migration.
pub(super) const PUBLISH: &str =
    "SELECT outcome, epoch, id, attempt FROM bus_publish_v2($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Events of older attempts than `$3` whose results may not be recorded, after id `$4`, at most `$5`. They are kept
/// nowhere but in the stream: what is trimmed from it runs again.
pub(super) const UNRECORDED: &str = "
SELECT e.id, e.body FROM bus_streams s
JOIN bus_live l ON l.stream = s.stream AND l.task_id = $2 AND NOT l.terminal
JOIN bus_events e ON e.stream = s.stream AND e.task_id = $2
WHERE s.user_id = $1 AND e.id > $4 AND e.attempt < $3
    AND (e.attempt, e.seq) >= (coalesce(l.kept_attempt, 0), coalesce(l.kept_seq, 0))
ORDER BY e.id LIMIT $5";

/// The stream of a user.
pub(super) const HEAD: &str = "SELECT epoch, head FROM bus_streams WHERE user_id = $1";

/// Makes the stream of a user, or finds the one that another replica has just made.
pub(super) const OPEN: &str = "
INSERT INTO bus_streams (user_id, epoch) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id
RETURNING epoch, head";

/// Streams of users, and their events after a cursor: `$1` users, `$2` epochs (null: whichever there is), `$3` last
/// ids seen (null: none), `$4` events per user, `$5` rows in all. One statement, so heads and events are of one moment. A user has
/// at least one row, unless the limit of rows cut it off.
pub(super) const READ: &str = "
SELECT f.place, s.epoch, s.head, e.id, e.task_id, e.attempt, e.seq, e.terminal, e.body
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS f (user_id, epoch, after, place)
LEFT JOIN bus_streams s ON s.user_id = f.user_id
LEFT JOIN LATERAL (
    SELECT * FROM bus_events
    WHERE bus_events.stream = s.stream AND bus_events.id > coalesce(f.after, 0)
        AND s.epoch = coalesce(f.epoch, s.epoch)
    ORDER BY bus_events.id
    LIMIT $4
) e ON true
ORDER BY f.place, e.id
LIMIT $5";

/// Which users have news, or lost their stream: `$1` users, `$2` epochs and `$3` last ids seen (null: no stream seen).
pub(super) const POLL: &str = "
SELECT f.user_id
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS f (user_id, epoch, id)
LEFT JOIN bus_streams s ON s.user_id = f.user_id
WHERE s.epoch IS DISTINCT FROM f.epoch OR s.head IS DISTINCT FROM f.id";

/// The newest event of each of these tasks.
pub(super) const LIVE: &str = "
SELECT l.event FROM bus_live l JOIN bus_streams s ON s.stream = l.stream
WHERE s.user_id = $1 AND l.task_id = ANY($2)";

/// Keeps streams that somebody watches: `$1` users, `$2` seconds without a touch. Skips rows that a publish holds,
/// which touches them anyway, so that two replicas cannot wait for each other.
pub(super) const TOUCH: &str = "
UPDATE bus_streams SET touched_at = now()
WHERE user_id IN (
    SELECT user_id FROM bus_streams
    WHERE user_id = ANY($1) AND touched_at < now() - make_interval(secs => $2)
    FOR UPDATE SKIP LOCKED
)";

/// Deletes at most `$2` events that are older than `$1` seconds.
pub(super) const TRIM_OLD: &str = "
DELETE FROM bus_events e USING (
    SELECT stream, id FROM bus_events
    WHERE created_at < now() - make_interval(secs => $1)
    ORDER BY created_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) old
WHERE e.stream = old.stream AND e.id = old.id";

/// Deletes at most `$2` events beyond the newest `$1` of their stream.
pub(super) const TRIM_EXCESS: &str = "
DELETE FROM bus_events e USING (
    SELECT b.stream, b.id FROM bus_streams s
    JOIN bus_events b ON b.stream = s.stream AND b.id <= s.head - $1
    WHERE s.head > $1
    LIMIT $2
    FOR UPDATE OF b SKIP LOCKED
) old
WHERE e.stream = old.stream AND e.id = old.id";

/// Deletes the live state of at most `$3` tasks: of those that are over and were silent for `$1` seconds, and of others
/// that were for `$2`. It is the fence, which must outlive whoever may still try to write.
pub(super) const DROP_SILENT: &str = "
DELETE FROM bus_live l USING (
    SELECT stream, task_id FROM bus_live
    WHERE touched_at < now() - make_interval(secs => CASE WHEN terminal THEN $1::double precision ELSE $2 END)
    LIMIT $3
    FOR UPDATE SKIP LOCKED
) old
WHERE l.stream = old.stream AND l.task_id = old.task_id";

/// Deletes at most `$2` streams that were idle for `$1` seconds and hold no fence any more, and with them their epochs.
pub(super) const DROP_IDLE: &str = "
DELETE FROM bus_streams
WHERE user_id IN (
    SELECT user_id FROM bus_streams
    WHERE touched_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (SELECT FROM bus_live WHERE bus_live.stream = bus_streams.stream)
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)";

/// All of them, by name.
pub const ALL: [(&str, &str); 12] = [
    ("PUBLISH", PUBLISH),
    ("UNRECORDED", UNRECORDED),
    ("HEAD", HEAD),
    ("OPEN", OPEN),
    ("READ", READ),
    ("POLL", POLL),
    ("LIVE", LIVE),
    ("TOUCH", TOUCH),
    ("TRIM_OLD", TRIM_OLD),
    ("TRIM_EXCESS", TRIM_EXCESS),
    ("DROP_SILENT", DROP_SILENT),
    ("DROP_IDLE", DROP_IDLE),
];
