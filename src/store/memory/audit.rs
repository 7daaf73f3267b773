//! The audit over plain lists, and what is pruned: tasks go from the book to the archive of the audit, and from there by their
//! age. Both are bounded; the oldest goes first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::book::{Book, Now, Record};
use crate::store::audit::AUDIT_PAGE_MAX;
use crate::store::{AuditEntry, AuditPlace, AuditQuery, AuditRow, AuditedNode, AuditedTask};
use crate::task::{ItemName, TaskId};

/// Most rows that are kept.
const ROWS_MAX: usize = 100_000;
/// Most items of pruned tasks that are kept.
const ITEMS_MAX: usize = 500_000;

/// Rows, oldest first. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryAudit {
    rows: Arc<Mutex<Rows>>,
}

#[derive(Debug, Default)]
struct Rows {
    rows: VecDeque<(AuditPlace, AuditEntry)>,
    last: i64,
}

impl MemoryAudit {
    /// Adds a row.
    pub fn add(&self, entry: AuditEntry, at: Timestamp) {
        let mut rows = self.lock();
        rows.last += 1;
        // Rows stay in order even if the clock is set back.
        let at = rows.rows.back().map_or(at, |(newest, _)| at.max(newest.at));
        let place = AuditPlace { at, id: rows.last };
        rows.rows.push_back((place, entry));
        if rows.rows.len() > ROWS_MAX {
            rows.rows.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks that are pruned and still in the audit.
#[derive(Default)]
pub(super) struct Archive {
    records: HashMap<TaskId, Record>,
    by_end: BTreeSet<(Timestamp, TaskId)>,
    items: usize,
}

impl Archive {
    fn keep(&mut self, ended: Timestamp, record: Record) {
        self.items += record.names.len();
        self.by_end.insert((ended, record.task.id));
        self.records.insert(record.task.id, record);
        while self.items > ITEMS_MAX && self.forget_first(Timestamp::MAX).is_some() {}
    }

    /// Forgets the task that is over for longest, if it ended by then.
    fn forget_first(&mut self, by: Timestamp) -> Option<TaskId> {
        let (ended, id) = self.by_end.first().copied().filter(|(ended, _)| *ended <= by)?;
        self.by_end.remove(&(ended, id));
        let record = self.records.remove(&id)?;
        self.items -= record.names.len();
        Some(id)
    }
}

impl Record {
    /// What came of a node by now.
    fn audited(&self, index: usize) -> Option<AuditedNode> {
        let item = self.item(index)?;
        let attempt = self.attempts.get(index).copied().flatten();
        let claim = self.claims.iter().find(|(claimed, _)| Some(*claimed) == attempt);
        Some(AuditedNode { item, attempt, worker: claim.map(|(_, worker)| worker.clone()) })
    }

    fn place_of(&self, node: &ItemName) -> Option<usize> {
        self.names.iter().position(|name| name == node)
    }

    fn outcome(&self) -> AuditedTask {
        let task = &self.task;
        AuditedTask {
            status: task.state.status,
            counts: task.counts,
            error: task.error.clone(),
            finished_at: task.finished_at,
        }
    }
}

impl Book {
    fn known(&self, task: TaskId) -> Option<&Record> {
        self.tasks.get(&task).or_else(|| self.archive.records.get(&task))
    }

    pub(super) fn audited(&self, query: &AuditQuery) -> Vec<AuditRow> {
        let rows = self.audit.lock();
        let newest = rows.rows.iter().rev().filter(|(place, entry)| query.fits(*place, entry));
        let told = newest.filter_map(|(place, entry)| self.told(*place, entry, query.node.as_ref()));
        told.take(query.limit.min(AUDIT_PAGE_MAX) as usize).collect()
    }

    /// The row as it is read; `None` when it is not about the node.
    fn told(&self, place: AuditPlace, entry: &AuditEntry, node: Option<&ItemName>) -> Option<AuditRow> {
        let record = entry.task.filter(|_| entry.kind.is_submit()).and_then(|task| self.known(task));
        let node = match node {
            None => None,
            Some(node) => Some(record.and_then(|record| record.audited(record.place_of(node)?))?),
        };
        Some(AuditRow { place, entry: entry.clone(), task: record.map(Record::outcome), node })
    }

    pub(super) fn audited_nodes(&self, task: TaskId, after: Option<u32>, limit: u32) -> Vec<AuditedNode> {
        let Some(record) = self.known(task) else { return Vec::new() };
        let first = after.map_or(0, |after| after as usize + 1);
        let nodes = (first..record.names.len()).filter_map(|index| record.audited(index));
        nodes.take(limit.min(AUDIT_PAGE_MAX) as usize).collect()
    }

    pub(super) fn prune(&mut self, age: Duration, limit: u32, now: &Now) -> u64 {
        let before = now.ago(age);
        let mut pruned = 0;
        while pruned < u64::from(limit)
            && let Some((at, id)) = self.over.first().copied()
            && at <= before
        {
            self.over.remove(&(at, id));
            if let Some(record) = self.forget(id) {
                self.archive.keep(at, record);
            }
            pruned += 1;
        }
        pruned
    }

    pub(super) fn prune_audit(&mut self, age: Duration, limit: u32, now: &Now) -> u64 {
        let before = now.ago(age);
        let forget = || self.archive.forget_first(before);
        let gone: BTreeSet<TaskId> = std::iter::from_fn(forget).take(limit as usize).collect();
        let mut rows = self.audit.lock();
        rows.rows.retain(|(_, entry)| entry.task.is_none_or(|task| !gone.contains(&task)));
        let mut notes = 0;
        rows.rows.retain(|(place, entry)| {
            let old = place.at <= before && entry.task.is_none_or(|task| self.known(task).is_none());
            let goes = old && notes < limit;
            notes += u32::from(goes);
            !goes
        });
        gone.len() as u64 + u64::from(notes)
    }

    /// Takes a task out of everything that finds it.
    fn forget(&mut self, id: TaskId) -> Option<Record> {
        let mut record = self.tasks.remove(&id)?;
        let owner = record.task.owner.clone();
        if let Some(row) = record.end.take() {
            self.outbox.remove(&row.id);
        }
        if let Some(theirs) = self.owners.get_mut(&owner) {
            theirs.tasks.remove(&id);
            if theirs.tasks.is_empty() {
                self.owners.remove(&owner);
            }
        }
        if let Some(root) = record.root
            && let Some(family) = self.families.get_mut(&root)
        {
            family.remove(&id);
            if family.is_empty() {
                self.families.remove(&root);
            }
        }
        if let Some(key) = record.key.take() {
            self.keys.remove(&(owner, key));
        }
        Some(record)
    }
}
