//! Retries over plain maps: families of tasks, and the newest result of each item. Not here: what a family is
//! ([`crate::store::retry`]).

use std::collections::{BTreeSet, HashMap};

use super::book::{Book, Now, Record};
use crate::store::{Created, NewRetry, NewTask, NotRetried, RETRIES_MAX, Retries, StoreError, Task, retry};
use crate::task::{ItemName, ItemState, TaskId};

impl Book {
    pub(super) fn retry(&mut self, new: NewRetry, now: &Now) -> Result<Option<Created>, StoreError> {
        let NewRetry { id, parent, owner, retry, key, open_max, origin } = new;
        if let Some(known) = self.of_key(&owner, key.as_ref())? {
            return Ok(Some(known));
        }
        let Some(record) = self.tasks.get(&parent) else { return Ok(None) };
        let status = record.task.state.status;
        if !status.is_terminal() {
            return Err(StoreError::Refused { task: parent, status });
        }
        let root = record.root.unwrap_or(parent);
        let left = self.left(root, record, &retry.include);
        let items = left.map_err(|why| StoreError::NotRetried { task: parent, why })?;
        let spec = retry.of(record.task.spec(items));
        self.add(NewTask { id, owner, spec, key, open_max, origin }, Some((parent, root)), now).map(Some)
    }

    /// The items to retry.
    fn left(
        &self,
        root: TaskId,
        record: &Record,
        include: &[ItemState],
    ) -> Result<Vec<ItemName>, NotRetried> {
        let retries = self.family(root).count();
        if let Some(open) = self.family(root).find(|retry| !retry.task.state.status.is_terminal()) {
            return Err(NotRetried::Open(open.task.id));
        }
        if retries >= RETRIES_MAX as usize {
            return Err(NotRetried::TooMany);
        }
        let newest = self.newest(record).into_iter();
        let wanted = newest.filter(|(_, state)| state.is_some_and(|state| include.contains(&state)));
        let items: Vec<ItemName> = wanted.map(|(name, _)| name.clone()).collect();
        if items.is_empty() { Err(NotRetried::NothingLeft) } else { Ok(items) }
    }

    pub(super) fn retries(&self, id: TaskId) -> Retries {
        let Some(record) = self.tasks.get(&id) else { return Retries::default() };
        let root = record.root.unwrap_or(id);
        let tasks: Vec<Task> =
            self.family(root).filter(|retry| retry.task.parent == Some(id)).map(|r| r.task.clone()).collect();
        let states = self.newest(record).into_iter().map(|(_, state)| state);
        let merged = (!tasks.is_empty()).then(|| retry::counts(states));
        Retries { tasks, merged }
    }

    /// All retries that come of a first task, oldest first.
    fn family(&self, root: TaskId) -> impl Iterator<Item = &Record> {
        let ids: &BTreeSet<TaskId> = self.families.get(&root).unwrap_or(const { &BTreeSet::new() });
        ids.iter().filter_map(|id| self.tasks.get(id))
    }

    /// The items of a task, in order, each with its newest result in the family.
    fn newest<'a>(&'a self, record: &'a Record) -> Vec<(&'a ItemName, Option<ItemState>)> {
        let place = |record: &Record| (record.task.created_at, record.task.id);
        let root = record.root.unwrap_or(record.task.id);
        let later = self.family(root).filter(|retry| place(retry) > place(record));
        let known = |record: &'a Record| record.names.iter().zip(&record.results);
        let ran = later.flat_map(known).filter_map(|(name, result)| {
            let state = result.as_ref()?.outcome.state();
            (state != ItemState::Cancelled).then_some((name, state))
        });
        let newer: HashMap<&ItemName, ItemState> = ran.collect();
        let own = |result: &Option<crate::task::ItemResult>| result.as_ref().map(|r| r.outcome.state());
        known(record).map(|(name, result)| (name, newer.get(name).copied().or(own(result)))).collect()
    }
}
