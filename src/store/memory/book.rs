//! The rules of the record over plain maps. No clock and no lock: time comes in with each call.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::audit::{Archive, MemoryAudit};
use super::strategies::{free, free_ended};
use crate::planted::{self, Bug};
use crate::store::change::Ending;
use crate::store::{
    AuditEntry, Backlog, Claim, ClaimRules, Control, Controlled, Created, Fence, IdempotencyKey, ItemQuery,
    NewTask, OutboxId, OutboxRow, Renewal, StalledTask, StoreError, Task, TaskQuery, Watched, change,
};
use crate::task::{
    Attempt, By, Change, ClusterName, Counts, Event, Item, ItemName, ItemResult, ReplicaId, Status, TaskId,
    TaskState, Then, UserId,
};

/// The time of a call: by the wall for what people see, by the monotonic clock for leases.
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) mono: Instant,
}

impl Now {
    pub(super) fn ago(&self, age: Duration) -> Timestamp {
        self.wall.checked_sub(age).unwrap_or(Timestamp::MIN)
    }
}

/// Everything. Each map is found through an index, so that finished tasks cost memory only.
#[derive(Default)]
pub(super) struct Book {
    pub(super) tasks: BTreeMap<TaskId, Record>,
    open: BTreeSet<TaskId>,
    pub(super) over: BTreeSet<(Timestamp, TaskId)>,
    pub(super) owners: HashMap<UserId, Owner>,
    pub(super) keys: HashMap<(UserId, String), ([u8; 32], TaskId)>,
    pub(super) outbox: BTreeMap<OutboxId, OutboxRow>,
    last_outbox: i64,
    claims: u64,
    /// Who holds which node of which cluster.
    pub(super) nodes: HashMap<(ClusterName, ItemName), Fence>,
    /// Retries by the first task of their family.
    pub(super) families: HashMap<TaskId, BTreeSet<TaskId>>,
    /// What was done, and what of it is pruned.
    pub(super) audit: MemoryAudit,
    pub(super) archive: Archive,
}

pub(super) struct Record {
    pub(super) task: Task,
    pub(super) names: Vec<ItemName>,
    pub(super) results: Vec<Option<ItemResult>>,
    /// The attempt that recorded each result, if one did.
    pub(super) attempts: Vec<Option<Attempt>>,
    /// Who held it under which attempt.
    pub(super) claims: Vec<(Attempt, ReplicaId)>,
    /// The first task of its family, of a retry.
    pub(super) root: Option<TaskId>,
    /// The order in which its items start, once that is kept.
    pub(super) order: Option<Vec<u32>>,
    /// Nodes that it may hold.
    pub(super) locks: HashSet<ItemName>,
    pub(super) lease_until: Option<Instant>,
    pub(super) key: Option<String>,
    /// Its end, published or not.
    pub(super) end: Option<OutboxRow>,
}

#[derive(Default)]
pub(super) struct Owner {
    pub(super) tasks: BTreeSet<TaskId>,
    /// The number of the last claim that served this owner.
    served: u64,
}

impl Record {
    fn lapsed(&self, now: &Now) -> bool {
        self.task.state.status.is_held() && self.lease_until.is_none_or(|until| until <= now.mono)
    }

    fn claimable(&self, now: &Now) -> bool {
        let tries_left = self.task.state.tries < self.task.max_attempts;
        let rested = self.task.rests_until.is_none_or(|until| until <= now.wall);
        (self.task.state.status == Status::Queued && rested) || (self.lapsed(now) && tries_left)
    }

    pub(super) fn item(&self, index: usize) -> Option<Item> {
        let name = self.names.get(index)?.clone();
        Some(Item { index: u32::try_from(index).ok()?, name, result: self.results[index].clone() })
    }

    fn pending(&self) -> Vec<(u32, ItemName)> {
        let items = (0_u32..).zip(self.names.iter().zip(&self.results));
        items.filter(|(_, (_, result))| result.is_none()).map(|(i, (name, _))| (i, name.clone())).collect()
    }
}

/// The gateway's side.
impl Book {
    pub(super) fn create(&mut self, new: NewTask, now: &Now) -> Result<Created, StoreError> {
        if let Some(known) = self.of_key(&new.owner, new.key.as_ref())? {
            return Ok(known);
        }
        self.add(new, None, now)
    }

    /// The task that a key has made.
    pub(super) fn of_key(
        &self,
        owner: &UserId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Created>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        match self.keys.get(&(owner.clone(), key.key.clone())) {
            None => Ok(None),
            Some((fingerprint, task)) if *fingerprint == key.fingerprint => self.existing(*task).map(Some),
            Some((_, task)) => Err(StoreError::KeyConflict { task: *task }),
        }
    }

    /// Records a task whose key is not known; a retry with the task that it retries and the first of its family.
    pub(super) fn add(
        &mut self,
        new: NewTask,
        lineage: Option<(TaskId, TaskId)>,
        now: &Now,
    ) -> Result<Created, StoreError> {
        let NewTask { id, owner, spec, key, open_max, origin } = new;
        let open = self.newest_of(&owner).filter(|task| !task.state.status.is_terminal());
        if open.count() >= open_max as usize {
            return Err(StoreError::TooManyOpen { owner, max: open_max });
        }
        let (parent, root) = lineage.unzip();
        let task = Task { parent, ..Task::accepted(id, owner.clone(), &spec, now.wall) };
        let by = By { user: owner.clone(), origin };
        self.audit.add(AuditEntry::submit(&task, &spec, by), now.wall);
        if let Some(key) = &key {
            self.keys.insert((owner.clone(), key.key.clone()), (key.fingerprint, id));
        }
        let record = Record {
            task: task.clone(),
            results: vec![None; spec.items.len()],
            attempts: vec![None; spec.items.len()],
            names: spec.items,
            claims: Vec::new(),
            root,
            order: None,
            locks: HashSet::new(),
            lease_until: None,
            key: key.map(|key| key.key),
            end: None,
        };
        if let Some(root) = root {
            self.families.entry(root).or_default().insert(id);
        }
        self.tasks.insert(id, record);
        self.open.insert(id);
        self.owners.entry(owner).or_default().tasks.insert(id);
        Ok(Created::New(task))
    }

    fn existing(&self, id: TaskId) -> Result<Created, StoreError> {
        let task = self.find(id).ok_or_else(|| StoreError::Corrupt {
            table: "keys",
            column: "task",
            row: id.to_string(),
            why: "there is no such task".into(),
        })?;
        Ok(Created::Existing(task))
    }

    pub(super) fn find(&self, id: TaskId) -> Option<Task> {
        self.tasks.get(&id).map(|record| record.task.clone())
    }

    pub(super) fn list(&self, query: &TaskQuery) -> Vec<Task> {
        let fits = |task: &&Task| {
            (query.statuses.is_empty() || query.statuses.contains(&task.state.status))
                && query.cluster.as_ref().is_none_or(|cluster| *cluster == task.cluster)
                && query.before.is_none_or(|before| task.id < before)
        };
        let limit = query.limit as usize;
        match &query.owner {
            Some(owner) => self.newest_of(owner).filter(fits).take(limit).cloned().collect(),
            None => self.tasks.values().rev().map(|r| &r.task).filter(fits).take(limit).cloned().collect(),
        }
    }

    fn newest_of(&self, owner: &UserId) -> impl Iterator<Item = &Task> {
        let ids = self.owners.get(owner).into_iter().flat_map(|owner| owner.tasks.iter().rev());
        ids.filter_map(|id| self.tasks.get(id)).map(|record| &record.task)
    }

    pub(super) fn items(&self, task: TaskId, query: &ItemQuery) -> Vec<Item> {
        let Some(record) = self.tasks.get(&task) else { return Vec::new() };
        let first = query.after.map_or(0, |after| after as usize + 1);
        let wanted = |item: &Item| query.state.is_none_or(|state| state == item.state());
        let items = (first..record.names.len()).filter_map(|index| record.item(index));
        items.filter(wanted).take(query.limit as usize).collect()
    }

    pub(super) fn ended(&self, tasks: &[TaskId], age: Duration, now: &Now) -> Vec<OutboxRow> {
        let before = now.ago(age);
        let old = |record: &&Record| record.task.finished_at.is_some_and(|at| at <= before);
        tasks.iter().filter_map(|id| self.tasks.get(id)).filter(old).filter_map(|r| r.end.clone()).collect()
    }

    pub(super) fn watched(&self, owners: &[UserId], recent: Duration, now: &Now) -> Vec<Watched> {
        let after = now.ago(recent);
        let watched = |task: &Task| {
            let over = task.state.status.is_terminal();
            let seen = !over || task.finished_at.is_some_and(|at| at > after);
            seen.then(|| Watched { owner: task.owner.clone(), task: task.id, over })
        };
        owners.iter().flat_map(|owner| self.newest_of(owner)).filter_map(watched).collect()
    }

    pub(super) fn snapshot(&self, owner: &UserId, recent: u32) -> Vec<Task> {
        let mut left = recent;
        let wanted = |task: &&Task| {
            let over = task.state.status.is_terminal();
            let take = !over || left > 0;
            left -= u32::from(over && take);
            take
        };
        self.newest_of(owner).filter(wanted).cloned().collect()
    }

    pub(super) fn control(
        &mut self,
        id: TaskId,
        control: Control,
        by: &By,
        now: &Now,
    ) -> Result<Option<Controlled>, StoreError> {
        let Some(before) = self.find(id) else { return Ok(None) };
        let outbox = self.change(id, now, |task| change::control(task, control, now.wall))?;
        let task = self.find(id).filter(|task| *task != before);
        if let Some(task) = &task {
            self.audit.add(AuditEntry::order(task, control, by.clone()), now.wall);
        }
        Ok(Some(Controlled { task: task.unwrap_or(before), outbox }))
    }
}

/// Changes of state.
impl Book {
    /// Applies a change, and ends the items and commits the event when it ended the task.
    fn change(
        &mut self,
        id: TaskId,
        now: &Now,
        change: impl FnOnce(&mut Task) -> Result<Option<Ending>, StoreError>,
    ) -> Result<Option<OutboxRow>, StoreError> {
        let Some(record) = self.tasks.get_mut(&id) else { return Ok(None) };
        let ending = change(&mut record.task)?;
        if record.task.worker.is_none() {
            record.lease_until = None;
            free(&mut self.nodes, record);
        }
        let Some(ending) = ending else { return Ok(None) };
        for (index, (name, result)) in (0_u32..).zip(record.names.iter().zip(&mut record.results)) {
            result.get_or_insert_with(|| ItemResult {
                index,
                name: name.clone(),
                outcome: ending.pending.clone(),
                tries: 0,
                finished_at: now.wall,
            });
        }
        Ok(Some(self.commit_end(id, ending.event, now)))
    }

    fn commit_end(&mut self, id: TaskId, event: Event, now: &Now) -> OutboxRow {
        let record = self.tasks.get_mut(&id).expect("the caller has just changed it");
        self.last_outbox += 1;
        let row = OutboxRow { id: OutboxId(self.last_outbox), owner: record.task.owner.clone(), event };
        record.lease_until = None;
        free(&mut self.nodes, record);
        record.end = Some(row.clone());
        let finished_at = record.task.finished_at.unwrap_or(now.wall);
        self.outbox.insert(row.id, row.clone());
        self.open.remove(&id);
        self.over.insert((finished_at, id));
        row
    }

    pub(super) fn fenced(&mut self, fence: Fence) -> Result<&mut Record, StoreError> {
        let lost = StoreError::Fenced { task: fence.task, by: fence.attempt };
        self.tasks
            .get_mut(&fence.task)
            .filter(|r| r.task.state.attempt == fence.attempt || planted::is(Bug::UpdateWithoutAttempt))
            .ok_or(lost)
    }
}

/// The worker's side.
impl Book {
    pub(super) fn claim(
        &mut self,
        worker: &ReplicaId,
        rules: &ClaimRules,
        now: &Now,
    ) -> Result<Option<Claim>, StoreError> {
        let Some(id) = self.best(rules, now) else { return Ok(None) };
        let record = self.tasks.get_mut(&id).expect("it was just chosen");
        change::claim(&mut record.task, worker, now.wall)?;
        record.lease_until = Some(now.mono + rules.lease);
        record.claims.push((record.task.state.attempt, worker.clone()));
        self.audit.add(AuditEntry::claim(&record.task, worker), now.wall);
        self.claims += 1;
        self.owners.entry(record.task.owner.clone()).or_default().served = self.claims;
        let order = record.order.clone();
        Ok(Some(Claim { task: record.task.clone(), pending: record.pending(), order }))
    }

    fn best(&self, rules: &ClaimRules, now: &Now) -> Option<TaskId> {
        let (mut by_owner, mut by_cluster) = (HashMap::<_, u32>::new(), HashMap::<_, u32>::new());
        for task in self.open_records().map(|r| &r.task).filter(|task| task.state.status.is_held()) {
            *by_owner.entry(&task.owner).or_default() += 1;
            *by_cluster.entry(&task.cluster).or_default() += 1;
        }
        let below_limit = |task: &Task| {
            let others =
                by_cluster.get(&task.cluster).copied().unwrap_or(0) - u32::from(task.state.status.is_held());
            others < rules.per_cluster_max
        };
        let order = |record: &&Record| {
            let task = &record.task;
            let served = self.owners.get(&task.owner).map_or(0, |owner| owner.served);
            let held = by_owner.get(&task.owner).copied().unwrap_or(0);
            (held, served, std::cmp::Reverse(task.priority), task.id)
        };
        let candidates =
            self.open_records().filter(|record| record.claimable(now) && below_limit(&record.task));
        candidates.min_by_key(order).map(|record| record.task.id)
    }

    pub(super) fn open_records(&self) -> impl Iterator<Item = &Record> {
        self.open.iter().filter_map(|id| self.tasks.get(id))
    }

    pub(super) fn renew(&mut self, held: &[Fence], lease: Duration, now: &Now) -> Vec<Renewal> {
        held.iter().map(|fence| self.renew_one(*fence, now.mono + lease)).collect()
    }

    fn renew_one(&mut self, fence: Fence, until: Instant) -> Renewal {
        match self.fenced(fence) {
            Ok(record) if record.task.worker.is_some() => {
                record.lease_until = Some(until);
                let Task { state, concurrency, .. } = &record.task;
                Renewal::Held { status: state.status, concurrency: *concurrency }
            }
            _ => Renewal::Lost,
        }
    }

    pub(super) fn record(
        &mut self,
        fence: Fence,
        results: &[ItemResult],
        now: &Now,
    ) -> Result<Counts, StoreError> {
        let record = self.fenced(fence)?;
        if record.task.state.status.is_terminal() {
            return Err(StoreError::Fenced { task: fence.task, by: fence.attempt });
        }
        for result in results {
            let place = record.results.get(result.index as usize);
            if planted::is(Bug::CountedBlindly) && matches!(place, Some(Some(_))) {
                record.task.counts.add(&result.outcome);
            }
            if let Some(place @ None) = record.results.get_mut(result.index as usize) {
                let name = record.names[result.index as usize].clone();
                *place = Some(ItemResult { name, ..result.clone() });
                record.attempts[result.index as usize] = Some(fence.attempt);
                record.task.counts.add(&result.outcome);
                record.task.updated_at = now.wall;
            }
        }
        let counts = record.task.counts;
        free_ended(&mut self.nodes, self.tasks.get_mut(&fence.task), results);
        Ok(counts)
    }

    pub(super) fn finish(&mut self, fence: Fence, event: &Event, now: &Now) -> Result<OutboxId, StoreError> {
        let record = self.fenced(fence)?;
        if let (true, Some(row)) = (record.task.state.status == event.status, &record.end) {
            return Ok(row.id);
        }
        change::finish(&mut record.task, fence.attempt, event, now.wall)?;
        Ok(self.commit_end(fence.task, event.clone(), now).id)
    }

    pub(super) fn halt(
        &mut self,
        fence: Fence,
        then: Then,
        message: &str,
        now: &Now,
    ) -> Result<TaskState, StoreError> {
        let task = &mut self.fenced(fence)?.task;
        change::halt(task, fence.attempt, then, message, now.wall)?;
        Ok(task.state)
    }

    pub(super) fn hand_over(&mut self, fence: Fence, now: &Now) -> Result<Status, StoreError> {
        self.fenced(fence)?;
        let change = Change::HandOver { by: fence.attempt };
        self.change(fence.task, now, |task| change::apply(task, change, now.wall))?;
        Ok(self.fenced(fence)?.task.state.status)
    }
}

/// The maintenance side.
impl Book {
    pub(super) fn published(&mut self, rows: &[OutboxId]) {
        for id in rows {
            self.outbox.remove(id);
        }
    }

    pub(super) fn claimable(&self, limit: u32, now: &Now) -> Vec<TaskId> {
        let found = self.open_records().filter(|record| record.claimable(now));
        found.take(limit as usize).map(|record| record.task.id).collect()
    }

    pub(super) fn give_up(&mut self, limit: u32, now: &Now) -> Result<Vec<Status>, StoreError> {
        let used_up = |record: &&Record| record.lapsed(now) && !record.claimable(now);
        let found = self.open_records().filter(used_up).take(limit as usize);
        let found: Vec<TaskId> = found.map(|record| record.task.id).collect();
        let mut ended = Vec::with_capacity(found.len());
        for id in found {
            let row = self.change(id, now, |task| change::apply(task, Change::GiveUp, now.wall))?;
            ended.extend(row.map(|row| row.event.status));
        }
        Ok(ended)
    }

    pub(super) fn unpublished(&self, age: Duration, limit: u32, now: &Now) -> Vec<OutboxRow> {
        let (before, limit) = (now.ago(age), limit as usize);
        let ended = |row: &OutboxRow| self.tasks.get(&row.event.task_id).and_then(|r| r.task.finished_at);
        let old = self.outbox.values().filter(|row| ended(row).is_some_and(|at| at <= before));
        old.take(limit).cloned().collect()
    }

    pub(super) fn stalled(&self, after: Duration, limit: u32, now: &Now) -> Vec<StalledTask> {
        let held = self.open_records().map(|record| &record.task).filter(|task| task.state.status.is_held());
        let stalled = held.map(|task| StalledTask {
            id: task.id,
            worker: task.worker.clone(),
            quiet: now.wall.duration_since(task.updated_at).try_into().unwrap_or_default(),
        });
        let mut stalled: Vec<_> = stalled.filter(|task| task.quiet >= after).collect();
        stalled.sort_by_key(|task| std::cmp::Reverse(task.quiet));
        stalled.truncate(limit as usize);
        stalled
    }

    pub(super) fn backlog(&self, now: &Now) -> Backlog {
        let mut backlog = Backlog { outbox: self.outbox.len() as u64, ..Backlog::default() };
        for record in self.open_records() {
            match record.task.state.status {
                Status::Queued if record.rest_left(now).is_some() => {}
                Status::Queued => {
                    backlog.queued += 1;
                    let age = now.wall.duration_since(record.task.created_at);
                    backlog.oldest_queued = backlog.oldest_queued.max(age.try_into().unwrap_or_default());
                }
                status if status.is_held() => backlog.held += 1,
                _ => {}
            }
            backlog.lapsed += u64::from(record.lapsed(now));
        }
        backlog
    }
}
