-- Labels, taints and annotations that people set again and again, under a name. Tasks know nothing of them.
CREATE TABLE templates (
    name text COLLATE "C" PRIMARY KEY,
    spec jsonb NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
