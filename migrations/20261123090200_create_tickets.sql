-- One-use tickets of browsers, for installations without a Redis. They live for seconds, so a crash may take them: the
-- browser asks for another.
CREATE UNLOGGED TABLE tickets (
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    -- Opaque here; bytes, so that any text comes back as it was.
    granted bytea NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX tickets_by_expiry ON tickets (expires_at);
