-- What the submitter of a task may on its cluster, frozen with the task, so that every worker enforces the same.
--
-- The release before knows nothing of it. Its tasks have NULL, and are run under the rules of that release but for nodes that
-- are protected by now. Tasks that could take a node out of service have an action that it does not know
-- ('cordon/guarded'), so it neither claims nor lists them.
ALTER TABLE tasks ADD COLUMN may text[];
