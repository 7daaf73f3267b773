//! Which pods of a node go, which stay, and which keep the node from being drained at all. Pure.
//!
//! The filters and their order are those of `kubectl drain`, and the first that says no decides. A node of which any pod
//! is refused is left as it is: all or nothing, before the first eviction. Not here: reading pods and `DaemonSets`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::pod::PodFacts;
use crate::task::spec::DrainParameters;

/// Pods that a refusal names for each reason.
pub(super) const NAMED_MAX: usize = 5;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Evict,
    Skip(Skip),
    Refuse(Refusal),
}

/// Why a pod is left where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skip {
    /// It has been terminating for longer than is waited for.
    LongTerminating,
    /// Its `DaemonSet` would make it anew here at once.
    DaemonSet,
    /// The kubelet runs it from a file; the API cannot end it.
    Mirror,
}

/// Why a node with this pod is not drained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// It is of a `DaemonSet`, and `ignore_daemonsets` is off.
    DaemonSet,
    /// Its `DaemonSet` is gone, and `force` is off.
    OrphanOfDaemonSet,
    /// Its `DaemonSet` could not be read: why.
    UnknownDaemonSet(String),
    /// It has data that would be lost, and `delete_emptydir_data` is off.
    EmptyDir,
    /// Nothing would make it anew, and `force` is off.
    Unmanaged,
}

impl Refusal {
    fn sentence(&self) -> String {
        match self {
            Self::DaemonSet => "pods of DaemonSets (set ignore_daemonsets to leave them)".into(),
            Self::OrphanOfDaemonSet => "pods whose DaemonSet does not exist (set force to evict them)".into(),
            Self::UnknownDaemonSet(why) => format!("pods whose DaemonSet cannot be read ({why})"),
            Self::EmptyDir => {
                "pods with emptyDir volumes, whose data would be lost (set delete_emptydir_data)".into()
            }
            Self::Unmanaged => "pods that nothing would make anew (set force to evict them)".into(),
        }
    }
}

/// What is known of a `DaemonSet` that a pod names as its controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DaemonSet {
    Exists,
    Missing,
    /// It could not be read: why.
    Unknown(String),
}

/// The `DaemonSets` of a node's pods, by namespace and name.
pub(super) type DaemonSets = BTreeMap<(String, String), DaemonSet>;

/// What a node's pods come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Those that go.
    pub(super) evict: Vec<PodFacts>,
    /// Those that stay, by reason.
    pub(super) skipped: BTreeMap<Skip, u32>,
}

/// What is to become of one pod.
pub(super) fn classify(
    pod: &PodFacts,
    sets: &DaemonSets,
    asked: &DrainParameters,
    now: Timestamp,
) -> Verdict {
    let filters = [
        terminating(pod, asked, now),
        daemon_set(pod, sets, asked),
        pod.mirror.then_some(Verdict::Skip(Skip::Mirror)),
        (!pod.finished && pod.empty_dir && !asked.delete_emptydir_data)
            .then_some(Verdict::Refuse(Refusal::EmptyDir)),
        (!pod.finished && pod.controller.is_none() && !asked.force)
            .then_some(Verdict::Refuse(Refusal::Unmanaged)),
    ];
    filters.into_iter().flatten().next().unwrap_or(Verdict::Evict)
}

fn terminating(pod: &PodFacts, asked: &DrainParameters, now: Timestamp) -> Option<Verdict> {
    let limit = asked.skip_wait()?;
    let ago = Duration::try_from(now.duration_since(pod.deleted_at?)).unwrap_or_default();
    (ago.as_secs() > limit.as_secs()).then_some(Verdict::Skip(Skip::LongTerminating))
}

fn daemon_set(pod: &PodFacts, sets: &DaemonSets, asked: &DrainParameters) -> Option<Verdict> {
    let name = pod.daemon_set().filter(|_| !pod.finished)?;
    let unknown = DaemonSet::Unknown("it was not looked up".into());
    match sets.get(&(pod.namespace.clone(), name.to_owned())).unwrap_or(&unknown) {
        DaemonSet::Missing if asked.force => None,
        DaemonSet::Missing => Some(Verdict::Refuse(Refusal::OrphanOfDaemonSet)),
        DaemonSet::Unknown(why) => Some(Verdict::Refuse(Refusal::UnknownDaemonSet(why.clone()))),
        DaemonSet::Exists if asked.ignore_daemonsets => Some(Verdict::Skip(Skip::DaemonSet)),
        DaemonSet::Exists => Some(Verdict::Refuse(Refusal::DaemonSet)),
    }
}

/// The `DaemonSets` that have to be known to sort these pods.
pub(super) fn daemon_sets_of<'a>(pods: impl IntoIterator<Item = &'a PodFacts>) -> BTreeSet<(String, String)> {
    let unfinished = pods.into_iter().filter(|pod| !pod.finished);
    unfinished.filter_map(|pod| Some((pod.namespace.clone(), pod.daemon_set()?.to_owned()))).collect()
}

/// Sorts the pods of a node.
///
/// # Errors
/// A sentence that names what keeps the node from being drained, by reason.
pub(super) fn preflight(
    pods: Vec<PodFacts>,
    sets: &DaemonSets,
    asked: &DrainParameters,
    now: Timestamp,
) -> Result<Plan, String> {
    let mut plan = Plan { evict: Vec::new(), skipped: BTreeMap::new() };
    let mut refused = Refused::default();
    for pod in pods {
        match classify(&pod, sets, asked, now) {
            Verdict::Evict => plan.evict.push(pod),
            Verdict::Skip(why) => *plan.skipped.entry(why).or_default() += 1,
            Verdict::Refuse(why) => refused.add(why, &pod),
        }
    }
    refused.sentence().map_or(Ok(plan), Err)
}

/// What keeps a node from being drained, by reason.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<Refusal, Vec<String>>);

impl Refused {
    /// Adds a pod that is refused.
    pub(super) fn add(&mut self, why: Refusal, pod: &PodFacts) {
        self.0.entry(why).or_default().push(pod.to_string());
    }

    /// What becomes of the node; `None` when nothing refuses it.
    pub(super) fn sentence(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| sentence(&self.0))
    }
}

fn sentence(refused: &BTreeMap<Refusal, Vec<String>>) -> String {
    let reasons = refused.iter().map(|(why, pods)| format!("{}: {}", why.sentence(), named(pods)));
    format!("no pod was evicted, because the node has {}", reasons.collect::<Vec<_>>().join("; "))
}

/// The first of some names, and how many more there are.
pub(super) fn named(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED_MAX)].join(", ");
    if names.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", names.len() - NAMED_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pod::Controller;
    use super::*;

    fn owned(kind: &str) -> PodFacts {
        let controller = Some(Controller { kind: kind.into(), name: "set".into() });
        PodFacts { namespace: "ns".into(), name: "pod".into(), controller, ..PodFacts::default() }
    }

    fn sets(set: DaemonSet) -> DaemonSets {
        [(("ns".to_owned(), "set".to_owned()), set)].into()
    }

    fn nothing() -> DrainParameters {
        DrainParameters::default()
    }

    fn everything() -> DrainParameters {
        DrainParameters {
            ignore_daemonsets: true,
            delete_emptydir_data: true,
            force: true,
            ..DrainParameters::default()
        }
    }

    fn verdict(pod: &PodFacts, set: DaemonSet, asked: &DrainParameters) -> Verdict {
        classify(pod, &sets(set), asked, Timestamp::from_second(1_000).unwrap())
    }

    #[test]
    fn a_pod_that_comes_back_elsewhere_goes() {
        assert_eq!(verdict(&owned("ReplicaSet"), DaemonSet::Exists, &nothing()), Verdict::Evict);
        // Only that it has a controller counts, neither its kind nor whether it exists.
        assert_eq!(verdict(&owned("Whatever"), DaemonSet::Missing, &nothing()), Verdict::Evict);
    }

    #[test]
    fn pods_of_daemon_sets_never_go_unless_they_are_orphans_or_finished() {
        let pod = owned("DaemonSet");
        let ignore = DrainParameters { ignore_daemonsets: true, ..nothing() };
        let force = DrainParameters { force: true, ..nothing() };
        let why = || DaemonSet::Unknown("forbidden".into());
        assert_eq!(verdict(&pod, DaemonSet::Exists, &nothing()), Verdict::Refuse(Refusal::DaemonSet));
        assert_eq!(verdict(&pod, DaemonSet::Exists, &force), Verdict::Refuse(Refusal::DaemonSet));
        assert_eq!(verdict(&pod, DaemonSet::Exists, &ignore), Verdict::Skip(Skip::DaemonSet));
        assert_eq!(verdict(&pod, DaemonSet::Missing, &ignore), Verdict::Refuse(Refusal::OrphanOfDaemonSet));
        assert_eq!(verdict(&pod, DaemonSet::Missing, &force), Verdict::Evict);
        let unknown = Verdict::Refuse(Refusal::UnknownDaemonSet("forbidden".into()));
        assert_eq!(verdict(&pod, why(), &everything()), unknown);
        let finished = PodFacts { finished: true, ..pod };
        assert_eq!(verdict(&finished, DaemonSet::Exists, &nothing()), Verdict::Evict);
        assert_eq!(verdict(&finished, why(), &nothing()), Verdict::Evict);
    }

    #[test]
    fn an_orphan_still_has_to_pass_the_filters_after() {
        let orphan = PodFacts { empty_dir: true, ..owned("DaemonSet") };
        let force = DrainParameters { force: true, ..nothing() };
        assert_eq!(verdict(&orphan, DaemonSet::Missing, &force), Verdict::Refuse(Refusal::EmptyDir));
        assert_eq!(verdict(&orphan, DaemonSet::Missing, &everything()), Verdict::Evict);
    }

    #[test]
    fn mirrors_are_left_silently_and_before_their_data_is_looked_at() {
        let mirror = PodFacts { mirror: true, empty_dir: true, ..PodFacts::default() };
        assert_eq!(verdict(&mirror, DaemonSet::Exists, &nothing()), Verdict::Skip(Skip::Mirror));
        let daemon = PodFacts { mirror: true, ..owned("DaemonSet") };
        let refused = verdict(&daemon, DaemonSet::Exists, &nothing());
        assert_eq!(refused, Verdict::Refuse(Refusal::DaemonSet), "the filter of DaemonSets comes first");
    }

    #[test]
    fn data_and_pods_without_a_controller_need_their_option_unless_they_are_finished() {
        let data = PodFacts { empty_dir: true, ..owned("ReplicaSet") };
        let bare = PodFacts { controller: None, ..owned("x") };
        for (pod, refusal) in [(data, Refusal::EmptyDir), (bare, Refusal::Unmanaged)] {
            assert_eq!(verdict(&pod, DaemonSet::Exists, &nothing()), Verdict::Refuse(refusal));
            assert_eq!(verdict(&pod, DaemonSet::Exists, &everything()), Verdict::Evict);
            let finished = PodFacts { finished: true, ..pod };
            assert_eq!(verdict(&finished, DaemonSet::Exists, &nothing()), Verdict::Evict);
        }
        let both = PodFacts { empty_dir: true, ..PodFacts::default() };
        let force = DrainParameters { force: true, ..nothing() };
        assert_eq!(verdict(&both, DaemonSet::Exists, &nothing()), Verdict::Refuse(Refusal::EmptyDir));
        assert_eq!(verdict(&both, DaemonSet::Exists, &force), Verdict::Refuse(Refusal::EmptyDir));
    }

    #[test]
    fn a_pod_that_has_been_terminating_for_too_long_is_not_waited_for() {
        let at = |second| PodFacts {
            deleted_at: Some(Timestamp::from_second(second).unwrap()),
            ..PodFacts::default()
        };
        let skip =
            |secs| DrainParameters { skip_wait_for_delete_timeout_seconds: Some(secs), ..everything() };
        let verdict = |second, asked: &DrainParameters| verdict(&at(second), DaemonSet::Exists, asked);
        assert_eq!(verdict(989, &skip(10)), Verdict::Skip(Skip::LongTerminating));
        assert_eq!(verdict(990, &skip(10)), Verdict::Evict, "not longer than");
        assert_eq!(verdict(2_000, &skip(10)), Verdict::Evict, "its time is still to come");
        assert_eq!(verdict(0, &skip(0)), Verdict::Evict);
        assert_eq!(verdict(0, &everything()), Verdict::Evict);
    }

    #[test]
    fn one_refused_pod_keeps_the_whole_node_and_every_reason_is_named() {
        let named = |name: &str, pod: PodFacts| PodFacts { name: name.into(), ..pod };
        let bare = PodFacts { namespace: "ns".into(), ..PodFacts::default() };
        let mut pods = vec![
            named("good", owned("ReplicaSet")),
            named("daemon", owned("DaemonSet")),
            named("data", PodFacts { empty_dir: true, ..owned("ReplicaSet") }),
        ];
        pods.extend((0..7).map(|n| named(&format!("bare-{n}"), bare.clone())));
        let refused = preflight(pods, &sets(DaemonSet::Exists), &nothing(), Timestamp::UNIX_EPOCH);
        assert_eq!(
            refused.unwrap_err(),
            "no pod was evicted, because the node has pods of DaemonSets (set ignore_daemonsets to leave them): \
             ns/daemon; pods with emptyDir volumes, whose data would be lost (set delete_emptydir_data): ns/data; \
             pods that nothing would make anew (set force to evict them): ns/bare-0, ns/bare-1, ns/bare-2, \
             ns/bare-3, ns/bare-4 and 2 more"
        );
    }

    fn any_pod() -> impl Strategy<Value = PodFacts> {
        let controller =
            prop::option::of(prop::sample::select(vec!["DaemonSet", "ReplicaSet", "Job", "Node"]));
        (controller, prop::option::of(0_i64..2_000), any::<(bool, bool, bool, bool)>()).prop_map(
            |(controller, deleted, (finished, mirror, empty_dir, critical))| PodFacts {
                namespace: "ns".into(),
                name: "pod".into(),
                controller: controller.map(|kind| Controller { kind: kind.into(), name: "set".into() }),
                deleted_at: deleted.map(|second| Timestamp::from_second(second).unwrap()),
                finished,
                mirror,
                empty_dir,
                critical,
                ..PodFacts::default()
            },
        )
    }

    fn any_set() -> impl Strategy<Value = DaemonSet> {
        prop::sample::select(vec![DaemonSet::Exists, DaemonSet::Missing, DaemonSet::Unknown("why".into())])
    }

    fn any_asked() -> impl Strategy<Value = DrainParameters> {
        (any::<(bool, bool, bool)>(), prop::option::of(0_u32..2_000)).prop_map(
            |((ignore_daemonsets, delete_emptydir_data, force), skip)| DrainParameters {
                ignore_daemonsets,
                delete_emptydir_data,
                force,
                skip_wait_for_delete_timeout_seconds: skip,
                ..DrainParameters::default()
            },
        )
    }

    proptest! {
        #[test]
        fn another_option_never_refuses_what_was_not_refused(pod in any_pod(), set in any_set(), asked in any_asked()) {
            let more = DrainParameters { ..everything() };
            let more = DrainParameters { skip_wait_for_delete_timeout_seconds: asked.skip_wait_for_delete_timeout_seconds, ..more };
            if !matches!(verdict(&pod, set.clone(), &asked), Verdict::Refuse(_)) {
                prop_assert!(!matches!(verdict(&pod, set, &more), Verdict::Refuse(_)));
            }
        }

        #[test]
        fn a_mirror_and_a_pod_whose_daemon_set_exists_never_go(pod in any_pod(), set in any_set(), asked in any_asked()) {
            let kept = pod.mirror || (pod.daemon_set().is_some() && !pod.finished && set != DaemonSet::Missing);
            if kept {
                prop_assert_ne!(verdict(&pod, set, &asked), Verdict::Evict);
            }
        }

        #[test]
        fn a_finished_pod_is_never_refused(pod in any_pod(), set in any_set(), asked in any_asked()) {
            let pod = PodFacts { finished: true, ..pod };
            prop_assert!(!matches!(verdict(&pod, set, &asked), Verdict::Refuse(_)));
        }

        #[test]
        fn a_node_is_refused_exactly_when_one_of_its_pods_is(
            pods in prop::collection::vec(any_pod(), 0..8), set in any_set(), asked in any_asked(),
        ) {
            let now = Timestamp::from_second(1_000).unwrap();
            let refused = pods.iter().any(|pod| matches!(verdict(pod, set.clone(), &asked), Verdict::Refuse(_)));
            let plan = preflight(pods.clone(), &sets(set), &asked, now);
            prop_assert_eq!(plan.is_err(), refused);
            if let Ok(plan) = plan {
                let skipped: u32 = plan.skipped.values().sum();
                prop_assert_eq!(plan.evict.len() + skipped as usize, pods.len());
            }
        }
    }
}
