//! The eviction of a node's pods, decided: which to ask for next, what an answer means, when it is over. Pure but for the
//! times that are passed in.
//!
//! Pods go in tiers: the next one begins when the one before is gone, and not at all when some of it will not go. In a
//! tier a bounded number of evictions is asked for at once; one that is refused for now is asked for again after a wait
//! that doubles, or after the one the cluster asked for. A pod is its UID. Not here: calls, watches, the time-out.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::answer::Answer;
use super::classify::named;
use super::pod::{PodFacts, Tier};
use crate::task::{Obstacle, PodCounts, Step};

/// Evictions of one node whose answers are waited for at once.
pub(super) const AT_ONCE: usize = 10;
/// The first wait after a refusal for now, and the longest; kubectl always waits 5 s.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// The longest wait that a cluster may ask for between two evictions of a pod.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Errors of unknown kind in a row before a pod has failed.
const BROKEN_MAX: u32 = 5;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Ask for the eviction of this pod.
    Evict(usize),
    /// Look whether this pod still exists: the cluster was not clear.
    Look(usize),
}

/// What a look at one pod found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It is gone, or its name belongs to another one.
    Gone,
    /// It is there.
    There(Box<PodFacts>),
    /// It could not be looked at.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody has asked yet.
    Waiting,
    /// A call is out.
    Calling,
    /// Refused for now; asked for again at this time.
    Again(Instant),
    /// It is to be looked at.
    Unsure,
    /// Terminating, and waited for.
    Leaving,
    /// Terminating for so long that it is not waited for any more.
    LeftAlone,
    Gone,
    Failed(String),
}

#[derive(Debug)]
struct Tracked {
    pod: PodFacts,
    tier: Tier,
    state: State,
    obstacle: Option<Held>,
    /// Refusals so far, which the wait follows.
    refusals: u32,
    /// Errors of unknown kind in a row.
    broken: u32,
}

/// What keeps a pod for now.
#[derive(Debug, Clone)]
struct Held {
    by: String,
    why: String,
    since: Timestamp,
}

impl Tracked {
    fn is_settled(&self) -> bool {
        matches!(self.state, State::Gone | State::LeftAlone | State::Failed(_))
    }

    fn settle(&mut self, state: State) {
        (self.state, self.obstacle) = (state, None);
    }

    fn hold(&mut self, by: &str, why: String, now: Timestamp) {
        let since = self.obstacle.take().filter(|held| held.by == by).map_or(now, |held| held.since);
        self.obstacle = Some(Held { by: by.to_owned(), why, since });
    }

    fn again(&mut self, asked: Option<Duration>, now: Instant) {
        let doubled = AGAIN_MIN.saturating_mul(1 << self.refusals.min(10)).min(AGAIN_MAX);
        self.refusals += 1;
        let wait = doubled.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
        self.state = State::Again(now + wait);
    }

    /// What keeps it from being gone, for a sentence.
    fn left(&self, now: Timestamp) -> String {
        let held = self.obstacle.as_ref().map(|held| {
            let secs = now.duration_since(held.since).as_secs().max(0);
            format!("kept by {} for {secs} s ({})", held.by, held.why)
        });
        let state = match &self.state {
            State::Failed(why) => why.clone(),
            State::Leaving | State::LeftAlone if self.pod.finalizers.is_empty() => {
                "is terminating".to_owned()
            }
            State::Leaving | State::LeftAlone => {
                format!("is terminating and held by its finalizers {}", named(&self.pod.finalizers))
            }
            State::Waiting if self.obstacle.is_none() => "was not evicted yet".to_owned(),
            _ => held.unwrap_or_else(|| "its eviction was not answered".to_owned()),
        };
        format!("{}: {state}", self.pod)
    }
}

/// The pods of one node on their way.
#[derive(Debug)]
pub(super) struct Machine {
    pods: Vec<Tracked>,
    by_uid: HashMap<String, usize>,
    at_once: usize,
    granted: bool,
}

impl Machine {
    /// Pods that are to go. One that is terminating already is only waited for, unless `grace` is shorter than it has.
    pub(super) fn new(pods: Vec<PodFacts>, grace: Option<i64>, at_once: usize) -> Self {
        let by_uid = pods.iter().enumerate().map(|(index, pod)| (pod.uid.clone(), index)).collect();
        let track = |pod: PodFacts| {
            let state = if is_leaving(&pod, grace) { State::Leaving } else { State::Waiting };
            Tracked { tier: pod.tier(), pod, state, obstacle: None, refusals: 0, broken: 0 }
        };
        Self { pods: pods.into_iter().map(track).collect(), by_uid, at_once, granted: false }
    }

    pub(super) fn pod(&self, index: usize) -> &PodFacts {
        &self.pods[index].pod
    }

    /// Whether anything happened to any pod.
    pub(super) fn has_acted(&self) -> bool {
        self.granted || self.pods.iter().any(|pod| pod.state == State::Gone)
    }

    /// What to do now. Each is given out once, and answered with [`Self::answered`] or [`Self::looked`].
    pub(super) fn next(&mut self, now: Instant) -> Vec<Act> {
        let Some(tier) = self.tier() else { return Vec::new() };
        let out = self.pods.iter().filter(|pod| pod.state == State::Calling).count();
        let mut acts = Vec::new();
        for (index, pod) in self.pods.iter_mut().enumerate().filter(|(_, pod)| pod.tier == tier) {
            if out + acts.len() >= self.at_once {
                break;
            }
            match pod.state {
                State::Waiting => acts.push(Act::Evict(index)),
                State::Again(at) if at <= now => acts.push(Act::Evict(index)),
                State::Unsure => acts.push(Act::Look(index)),
                _ => continue,
            }
            pod.state = State::Calling;
        }
        acts
    }

    /// When [`Self::next`] has something to do by itself.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let tier = self.tier()?;
        let again = self.pods.iter().filter(|pod| pod.tier == tier).filter_map(|pod| match pod.state {
            State::Again(at) => Some(at),
            _ => None,
        });
        again.min()
    }

    /// The tier whose turn it is: the first with a pod that is neither gone nor failed, unless some of an earlier one
    /// failed.
    fn tier(&self) -> Option<Tier> {
        let tier = self.pods.iter().filter(|pod| !pod.is_settled()).map(|pod| pod.tier).min()?;
        let failed = self.pods.iter().any(|pod| pod.tier < tier && matches!(pod.state, State::Failed(_)));
        (!failed).then_some(tier)
    }

    /// Whether there is nothing left to do or to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.tier().is_none()
    }

    /// Takes in how the eviction of a pod was answered.
    pub(super) fn answered(&mut self, index: usize, answer: Answer, now: Instant, time: Timestamp) {
        let pod = &mut self.pods[index];
        if pod.state != State::Calling {
            // The watch was faster: it is gone, or on its way.
            self.granted |= answer == Answer::Granted;
            return;
        }
        if !matches!(answer, Answer::Broken { .. }) {
            pod.broken = 0;
        }
        match answer {
            Answer::Granted => {
                self.granted = true;
                pod.settle(State::Leaving);
            }
            Answer::Gone => pod.settle(State::Gone),
            Answer::Conflict => pod.state = State::Unsure,
            Answer::Budget { budget, why, retry_after } => {
                pod.hold(&budget, why, time);
                pod.again(retry_after, now);
            }
            Answer::Busy { why, retry_after } => {
                pod.hold("the cluster", why, time);
                pod.again(retry_after, now);
            }
            Answer::Closing { why } => {
                pod.hold("its namespace, which is being deleted", why, time);
                pod.again(None, now);
            }
            Answer::Broken { why } => {
                pod.broken += 1;
                if pod.broken >= BROKEN_MAX {
                    pod.settle(State::Failed(why));
                } else {
                    pod.hold("an error of the cluster", why, time);
                    pod.again(None, now);
                }
            }
            Answer::Refused { why } => pod.settle(State::Failed(why)),
            Answer::NotSent => pod.state = State::Waiting,
        }
    }

    /// Takes in what a look found.
    pub(super) fn looked(&mut self, index: usize, found: Found, now: Instant) {
        if self.pods[index].state != State::Calling {
            return;
        }
        match found {
            Found::Gone => self.pods[index].settle(State::Gone),
            Found::Unknown => self.pods[index].again(None, now),
            Found::There(facts) => {
                self.pods[index].again(None, now);
                self.seen(&facts);
            }
        }
    }

    /// Somebody saw this pod. One that is terminating needs no eviction any more.
    pub(super) fn seen(&mut self, facts: &PodFacts) {
        let Some(pod) = self.by_uid.get(&facts.uid).map(|index| &mut self.pods[*index]) else { return };
        let was_terminating = pod.pod.deleted_at.is_some();
        pod.pod.finalizers.clone_from(&facts.finalizers);
        (pod.pod.deleted_at, pod.pod.deletion_grace) = (facts.deleted_at, facts.deletion_grace);
        if facts.deleted_at.is_some() && !was_terminating && !pod.is_settled() {
            pod.settle(State::Leaving);
        }
    }

    /// Somebody saw that this pod is gone, which is for good: a UID is never used again.
    pub(super) fn gone(&mut self, uid: &str) {
        if let Some(index) = self.by_uid.get(uid) {
            self.pods[*index].settle(State::Gone);
        }
    }

    /// All pods of the node, as they were listed: whoever is not among them is gone.
    pub(super) fn listed(&mut self, pods: &[PodFacts]) {
        let there: HashMap<&str, &PodFacts> = pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
        let missing: Vec<String> =
            self.by_uid.keys().filter(|uid| !there.contains_key(uid.as_str())).cloned().collect();
        missing.iter().for_each(|uid| self.gone(uid));
        pods.iter().for_each(|pod| self.seen(pod));
    }

    /// Gives up waiting for pods that should have ended so long ago.
    pub(super) fn leave_alone(&mut self, longer_than: Duration, now: Timestamp) {
        for pod in self.pods.iter_mut().filter(|pod| pod.state == State::Leaving) {
            let late = pod.pod.deleted_at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
            if late.is_some_and(|late| late.as_secs() > longer_than.as_secs()) {
                pod.settle(State::LeftAlone);
            }
        }
    }

    /// What keeps the node from being empty, in a sentence; `None` when all pods are gone that are waited for. What failed comes first.
    pub(super) fn left(&self, now: Timestamp) -> Option<String> {
        let mut left: Vec<&Tracked> =
            self.pods.iter().filter(|pod| !matches!(pod.state, State::Gone | State::LeftAlone)).collect();
        // What is only waiting for its turn explains nothing.
        left.sort_by_key(|pod| (!matches!(pod.state, State::Failed(_)), pod.state == State::Waiting));
        let sentences: Vec<String> = left.iter().map(|pod| pod.left(now)).collect();
        let (n, total) = (left.len(), self.pods.len());
        (n > 0).then(|| format!("{n} of {total} pods left: {}", named(&sentences)))
    }

    /// Where the pods are.
    pub(super) fn step(&self) -> Step {
        let mut counts = PodCounts { total: count(self.pods.len()), ..PodCounts::default() };
        for pod in &self.pods {
            let held = pod.obstacle.is_some();
            *match pod.state {
                State::Gone => &mut counts.gone,
                State::Failed(_) => &mut counts.failed,
                State::Leaving | State::LeftAlone => &mut counts.evicting,
                _ if held => &mut counts.blocked,
                State::Waiting => &mut counts.waiting,
                _ => &mut counts.evicting,
            } += 1;
        }
        Step { pods: Some(counts), obstacles: self.obstacles(), ..Step::doing("evicting pods") }
    }

    fn obstacles(&self) -> Vec<Obstacle> {
        let mut all: Vec<Obstacle> = Vec::new();
        for (pod, held) in self.pods.iter().filter_map(|pod| Some((pod, pod.obstacle.as_ref()?))) {
            match all.iter_mut().find(|known| known.by == held.by) {
                Some(known) => {
                    known.pods += 1;
                    known.since = known.since.min(held.since);
                }
                None => all.push(Obstacle {
                    by: held.by.clone(),
                    pods: 1,
                    pod: pod.pod.to_string(),
                    since: held.since,
                    why: held.why.clone(),
                }),
            }
        }
        all.sort_by_key(|obstacle| obstacle.since);
        all
    }
}

/// Whether a pod is on its way already, and as fast as was asked.
fn is_leaving(pod: &PodFacts, grace: Option<i64>) -> bool {
    let fast = grace.is_none_or(|grace| pod.deletion_grace.is_none_or(|had| had <= grace));
    pod.deleted_at.is_some() && fast
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
