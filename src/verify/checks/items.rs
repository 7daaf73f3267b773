//! Results of items, and how often they were acted on.

use std::collections::{BTreeMap, HashMap};

use super::tasks::last_attempt;
use crate::task::{Attempt, ItemState, TaskId};
use crate::verify::history::{History, TaskFacts};
use crate::verify::read::Place;
use crate::verify::record::Execution;
use crate::verify::report::Finding;

/// What was told of items: the state by attempt, and where.
type Told = HashMap<(TaskId, u32), BTreeMap<Attempt, (ItemState, Place)>>;

/// I5.
pub(super) fn one_result(history: &History, finding: &mut Finding) {
    let told = told(history, finding);
    for (&id, task) in &history.tasks {
        let mut rows: HashMap<u32, ItemState> = HashMap::new();
        for (place, row) in &task.rows {
            finding.checked += 1;
            if rows.insert(row.index, row.state).is_some() {
                finding.of_item(*place, id, &row.index, "has two results".to_owned());
            }
            let over = task.dump().is_some_and(|dump| dump.status.is_terminal());
            if over && matches!(row.state, ItemState::Pending | ItemState::Running) {
                finding.of_item(
                    *place,
                    id,
                    &row.index,
                    format!("is {} although its task is over", row.state.as_str()),
                );
            }
        }
        for (&index, &state) in &rows {
            if let Some(attempts) = told.get(&(id, index)) {
                row_is_what_was_told(id, index, state, (task, attempts), finding);
            }
        }
    }
}

/// Gathers what was told, and finds items that ended twice in one attempt.
fn told(history: &History, finding: &mut Finding) -> Told {
    let mut told = Told::new();
    for (place, socket, event) in history.events() {
        for &(index, state) in &event.ended {
            let attempts = told.entry((event.task, index)).or_default();
            let &mut (before, line) = attempts.entry(event.attempt).or_insert((state, place));
            if before != state {
                let (before, state) = (before.as_str(), state.as_str());
                let what =
                    format!("{} was told {state}, and {before} was told in line {}", socket.name, line.line);
                finding.of_item(place, event.task, &index, what);
            }
        }
    }
    told
}

/// What the last attempt told is what the record keeps. An older one may have told a result that was lost with its worker
/// before it was recorded; then a later attempt has run the item again.
fn row_is_what_was_told(
    id: TaskId,
    index: u32,
    row: ItemState,
    (task, attempts): (&TaskFacts, &BTreeMap<Attempt, (ItemState, Place)>),
    finding: &mut Finding,
) {
    let Some((&attempt, &(state, place))) = attempts.last_key_value() else { return };
    if state == row || last_attempt(task).is_some_and(|last| last > attempt) {
        return;
    }
    let what = format!("was told {}, and its result is {}", state.as_str(), row.as_str());
    finding.of_item(place, id, &index, what);
}

/// I6.
pub(super) fn few_executions(history: &History, finding: &mut Finding) {
    for (&id, task) in &history.tasks {
        let mut items: HashMap<&str, Vec<&(Place, Execution)>> = HashMap::new();
        for run in &task.executions {
            items.entry(&run.1.item).or_default().push(run);
        }
        for (item, runs) in &items {
            finding.checked += 1;
            not_too_often(history, (id, task), item, runs, finding);
        }
        if !items.is_empty() {
            none_is_made_up(id, task, &items, finding);
        }
    }
}

fn not_too_often(
    history: &History,
    (id, task): (TaskId, &TaskFacts),
    item: &str,
    runs: &[&(Place, Execution)],
    finding: &mut Finding,
) {
    let mut firsts: Vec<&(Place, Execution)> = Vec::new();
    for run in runs {
        if run.1.attempt.is_none() || firsts.iter().all(|first| first.1.attempt != run.1.attempt) {
            firsts.push(run);
        }
    }
    let Some(last) = firsts.last() else { return };
    let times = || firsts.iter().map(|run| run.1.at_us);
    let (from, to) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
    let faults = history.faults_between(from, to).count();
    let pauses = task.paused_us.iter().filter(|at| (from..=to).contains(at)).count();
    if firsts.len() > 1 + faults + pauses {
        let what = format!("ran {} times, with {faults} faults and {pauses} pauses between", firsts.len());
        finding.of_item(last.0, id, item, what);
    }
    let Some(max) = task.dump().and_then(|dump| dump.max_attempts) else { return };
    let given_back =
        task.paused_us.len() + history.faults.values().filter(|fault| fault.fault.contains("term")).count();
    if firsts.len() > usize::from(max) + given_back {
        finding.of_item(
            last.0,
            id,
            item,
            format!("ran {} times, although {max} attempts are the most", firsts.len()),
        );
    }
}

/// An item cannot have succeeded without having been acted on, where what was acted on was noted.
fn none_is_made_up(
    id: TaskId,
    task: &TaskFacts,
    ran: &HashMap<&str, Vec<&(Place, Execution)>>,
    finding: &mut Finding,
) {
    for (place, row) in task.rows.iter().filter(|(_, row)| row.state == ItemState::Succeeded) {
        if !ran.contains_key(row.name.as_str()) {
            finding.of_item(*place, id, &row.name, "succeeded and was never acted on".to_owned());
        }
    }
}

/// I15.
pub(super) fn poison_is_given_up(history: &History, finding: &mut Finding) {
    for (&id, task) in history.tasks.iter().filter(|(_, task)| task.poison) {
        let Some((place, dump)) = task.dumps.last() else { continue };
        finding.checked += 1;
        if !dump.status.is_terminal() || dump.counts.failed == 0 {
            let what = format!("holds a poison item and is {} without a failure", dump.status);
            finding.of_task(*place, id, what);
        }
    }
}
