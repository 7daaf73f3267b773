-- What the next attempt of a task needs of the bus: from which event on results may not be recorded, and the fence for
-- as long as the task is not over.
--
-- The release before goes on with bus_publish_v1: it leaves the new columns as they are, so that a later attempt is given
-- a few results that are recorded, which adds nothing, and keeps a few fences longer.

ALTER TABLE bus_live
    -- Results told by events before this one are in the record. Null: nothing is known to be.
    ADD COLUMN kept_attempt bigint,
    ADD COLUMN kept_seq bigint,
    ADD COLUMN terminal boolean NOT NULL DEFAULT false;

-- As bus_publish_v1, and notes with `the_kept`, unless it is null, the number of the first event of this attempt whose
-- results may not be recorded.
CREATE FUNCTION bus_publish_v2(
    the_user text,
    the_task uuid,
    the_attempt bigint,
    the_seq bigint,
    is_terminal boolean,
    the_body bytea,
    the_live bytea,
    the_channel text,
    the_kept bigint,
    OUT outcome text,
    OUT epoch text,
    OUT id bigint,
    OUT attempt bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    life bus_streams%ROWTYPE;
    last bus_live%ROWTYPE;
    moment timestamptz;
BEGIN
    SELECT s.* INTO life FROM bus_streams s WHERE s.user_id = the_user FOR UPDATE;
    -- The row may be removed between the two statements, once in a stream_ttl; then it is made again.
    WHILE NOT FOUND LOOP
        INSERT INTO bus_streams (user_id, epoch)
        VALUES (the_user, replace(gen_random_uuid()::text, '-', ''))
        ON CONFLICT (user_id) DO NOTHING;
        SELECT s.* INTO life FROM bus_streams s WHERE s.user_id = the_user FOR UPDATE;
    END LOOP;

    SELECT l.* INTO last FROM bus_live l WHERE l.stream = life.stream AND l.task_id = the_task;
    IF FOUND AND the_attempt < last.attempt THEN
        outcome := 'fenced';
        attempt := last.attempt;
        RETURN;
    ELSIF FOUND AND the_attempt = last.attempt AND the_seq <= last.seq THEN
        outcome := 'repeat';
        RETURN;
    END IF;

    -- Read after the lock, so that it grows with the ids.
    moment := clock_timestamp();
    UPDATE bus_streams s SET head = s.head + 1, touched_at = moment WHERE s.user_id = the_user;
    INSERT INTO bus_events (stream, id, task_id, attempt, seq, terminal, body, created_at)
    VALUES (life.stream, life.head + 1, the_task, the_attempt, the_seq, is_terminal, the_body, moment);
    INSERT INTO bus_live AS l
        (stream, task_id, attempt, seq, event, touched_at, terminal, kept_attempt, kept_seq)
    VALUES (life.stream, the_task, the_attempt, the_seq, the_live, moment, is_terminal,
        CASE WHEN the_kept IS NOT NULL THEN the_attempt END, the_kept)
    ON CONFLICT (stream, task_id) DO UPDATE SET
        attempt = excluded.attempt, seq = excluded.seq, event = excluded.event, touched_at = excluded.touched_at,
        terminal = excluded.terminal,
        kept_attempt = coalesce(excluded.kept_attempt, l.kept_attempt),
        kept_seq = coalesce(excluded.kept_seq, l.kept_seq);
    IF the_channel IS NOT NULL THEN
        PERFORM pg_notify(the_channel, the_user);
    END IF;
    outcome := 'appended';
    epoch := life.epoch;
    id := life.head + 1;
END
$$;
