-- Progress streams, for installations without a Redis.
--
-- The tables are UNLOGGED: a publish writes no WAL, so its commit waits for no disk and no standby. After a crash or a
-- failover they are empty; every stream then gets a new epoch and readers are sent a snapshot of the record, exactly
-- as when a Redis is lost. What must survive is in the tables of the record, which are logged.

-- One row per user, locked by each publish: events of one user commit in the order of their ids, so a reader that
-- has seen id n can never miss a smaller one that commits later.
CREATE UNLOGGED TABLE bus_streams (
    user_id text PRIMARY KEY,
    -- One life of a user's stream. Events and live state belong to it, not to the user: whatever is left of an
    -- earlier life can never be taken for the present one's.
    stream bigint GENERATED ALWAYS AS IDENTITY,
    epoch text NOT NULL CHECK (epoch ~ '^[0-9A-Za-z]{1,32}$'),
    -- Id of the newest event. Ids are dense from 1, so a reader knows a gap when it sees one.
    head bigint NOT NULL DEFAULT 0,
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
    -- No column that a publish changes is indexed; with room in the page updates stay in it.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05
);

CREATE UNLOGGED TABLE bus_events (
    stream bigint NOT NULL,
    id bigint NOT NULL,
    task_id uuid NOT NULL,
    attempt bigint NOT NULL,
    seq bigint NOT NULL,
    terminal boolean NOT NULL,
    -- The event as JSON text in UTF-8, as it was published.
    body bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (stream, id)
) WITH (
    -- Only ever inserted to and deleted from, oldest first.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.1
);

CREATE INDEX bus_events_by_age ON bus_events (created_at);

-- The newest event of each task, without its items: the fence, and what a late joiner sees.
CREATE UNLOGGED TABLE bus_live (
    stream bigint NOT NULL,
    task_id uuid NOT NULL,
    attempt bigint NOT NULL,
    seq bigint NOT NULL,
    event bytea NOT NULL,
    touched_at timestamptz NOT NULL,
    PRIMARY KEY (stream, task_id)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05
);

-- Fence, repeat check, append, live state and doorbell in one round trip and one short transaction.
--
-- Answers one row: 'appended' with the place, 'repeat', or 'fenced' with the attempt that may publish. The doorbell
-- carries the user id alone; without a channel nobody is rung. The name is versioned: a release that needs another
-- function makes it beside this one.
CREATE FUNCTION bus_publish_v1(
    the_user text,
    the_task uuid,
    the_attempt bigint,
    the_seq bigint,
    is_terminal boolean,
    the_body bytea,
    the_live bytea,
    the_channel text,
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
    INSERT INTO bus_live AS l (stream, task_id, attempt, seq, event, touched_at)
    VALUES (life.stream, the_task, the_attempt, the_seq, the_live, moment)
    ON CONFLICT (stream, task_id) DO UPDATE SET
        attempt = excluded.attempt, seq = excluded.seq, event = excluded.event, touched_at = excluded.touched_at;
    IF the_channel IS NOT NULL THEN
        PERFORM pg_notify(the_channel, the_user);
    END IF;
    outcome := 'appended';
    epoch := life.epoch;
    id := life.head + 1;
END
$$;
