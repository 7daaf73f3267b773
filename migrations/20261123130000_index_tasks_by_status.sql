-- Everybody's tasks of one status, as an administrator looks for what failed. Without it a page of a rare status reads
-- every task. A change of status is in an index already, so this costs no update its place in the page.
CREATE INDEX tasks_by_status ON tasks (status, id DESC);
