//! A scenario: who is connected, what they submit, and what happens meanwhile. Read from a file, checked before anything
//! starts. Not here: how it is carried out ([`crate::run`]).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Scenarios that come with the program, by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("progress", include_str!("../scenarios/progress.yaml")),
    ("paced", include_str!("../scenarios/paced.yaml")),
    ("burst", include_str!("../scenarios/burst.yaml")),
    ("large", include_str!("../scenarios/large.yaml")),
    ("crowd", include_str!("../scenarios/crowd.yaml")),
    ("fanout", include_str!("../scenarios/fanout.yaml")),
    ("idle", include_str!("../scenarios/idle.yaml")),
    ("storm", include_str!("../scenarios/storm.yaml")),
    ("fairness", include_str!("../scenarios/fairness.yaml")),
    ("ramp", include_str!("../scenarios/ramp.yaml")),
];

/// Most sockets of one scenario: each is a file of this process and one of a gateway.
const SOCKETS_MAX: usize = 60_000;

/// What is done in one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name, which the files of its results get.
    #[serde(skip_deserializing)]
    pub name: String,
    /// The work in a sentence.
    pub about: String,
    /// The hub that is started for it.
    #[serde(default)]
    pub hub: HubShape,
    /// Users who do the same, each group at the same time as the others.
    pub groups: Vec<Group>,
    /// How many times the users who submit there are, one step after the other, on the same hub.
    #[serde(default)]
    pub steps: Vec<usize>,
    /// A group that runs alone first, for the ratio between that and beside the others.
    #[serde(default)]
    pub alone: Option<String>,
    /// A gateway that is killed meanwhile.
    #[serde(default)]
    pub storm: Option<Storm>,
}

/// Processes and settings of the hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubShape {
    /// Gateway processes; memory mode has one process for all.
    pub gateways: usize,
    /// Worker processes.
    pub workers: usize,
    /// Whether workers have room for all batches at once, so that none waits for another; else they are as they are by
    /// default.
    pub sized: bool,
    /// Further settings of all processes, by the names of their environment variables.
    pub settings: BTreeMap<String, String>,
}

impl Default for HubShape {
    fn default() -> Self {
        Self { gateways: 2, workers: 2, sized: true, settings: BTreeMap::new() }
    }
}

/// Users who do the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name, for tables.
    pub name: String,
    /// How many there are.
    pub users: usize,
    /// Sockets of each.
    #[serde(default = "one")]
    pub sockets: usize,
    /// Batches that each submits, one after the other; none for users who only watch.
    #[serde(default)]
    pub batches: usize,
    /// Items of each batch.
    #[serde(default = "one")]
    pub items: usize,
    /// How long an item works, in milliseconds.
    #[serde(default)]
    pub item_ms: u64,
    /// Items of one batch at once; as many as a worker allows if it is not said.
    #[serde(default)]
    pub lanes: Option<u16>,
}

impl Group {
    /// Its sockets, of all users.
    pub fn all_sockets(&self) -> usize {
        self.users * self.sockets
    }
}

/// A gateway is killed while events flow, and all its clients come back to the others.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// How long after the first submit, in milliseconds.
    pub after_ms: u64,
}

fn one() -> usize {
    1
}

impl Scenario {
    /// The scenario of that name, or in that file.
    ///
    /// # Errors
    /// When there is none, or it makes no sense; says which field and why.
    pub fn find(name: &str) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{name} is no file and no scenario of this program, which are {}", names.join(", "))
        })?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("scenario");
        Self::parse(stem, &text).with_context(|| format!("scenario {name}"))
    }

    /// All that come with the program, in their order.
    pub fn built_in() -> Result<Vec<Self>> {
        BUILT_IN.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = serde_norway::from_str(text)?;
        scenario.name = name.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.groups.is_empty(), "groups: at least one is needed");
        for group in &self.groups {
            ensure!(group.users > 0, "groups.{}.users: at least 1", group.name);
            ensure!(group.sockets > 0, "groups.{}.sockets: at least 1", group.name);
            ensure!(group.items > 0, "groups.{}.items: at least 1", group.name);
        }
        let most = self.steps.iter().max().copied().unwrap_or(1);
        let sockets: usize = self.groups.iter().map(Group::all_sockets).sum::<usize>() * most;
        ensure!(sockets <= SOCKETS_MAX, "groups: {sockets} sockets, and at most {SOCKETS_MAX} may be");
        ensure!(!self.steps.contains(&0), "steps: each is at least 1");
        if let Some(alone) = &self.alone
            && !self.groups.iter().any(|group| group.name == *alone)
        {
            bail!("alone: there is no group {alone}");
        }
        ensure!(self.storm.is_none() || self.hub.gateways > 1, "storm: needs another gateway to go to");
        ensure!(self.storm.is_none() || self.steps.is_empty(), "storm: not together with steps");
        Ok(())
    }

    /// The groups that take part in a step of a ramp: those who submit are so many times as many.
    pub fn groups_at(&self, step: usize) -> Vec<Group> {
        let scale = |group: &Group| {
            let times = if group.batches > 0 { step } else { 1 };
            Group { users: group.users * times, ..group.clone() }
        };
        self.groups.iter().map(scale).collect()
    }

    /// Most users who submit at once.
    pub fn submitters(&self) -> usize {
        let most = self.steps.iter().max().copied().unwrap_or(1);
        self.groups.iter().filter(|group| group.batches > 0).map(|group| group.users * most).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_with_the_program_makes_sense() {
        let all = Scenario::built_in().unwrap();
        assert_eq!(all.len(), BUILT_IN.len());
        assert!(all.iter().all(|scenario| !scenario.about.is_empty()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refused = |text: &str| Scenario::parse("x", text).unwrap_err().to_string();
        let group = "about: x\ngroups: [{name: a, users: 1, ";
        assert_eq!(refused(&format!("{group}sockets: 0}}]")), "groups.a.sockets: at least 1");
        assert_eq!(refused(&format!("{group}batches: 1}}]\nalone: b")), "alone: there is no group b");
        assert!(refused(&format!("{group}sockets: 70000}}]")).contains("at most 60000"));
        assert!(refused(&format!("{group}colour: red}}]")).contains("colour"));
        assert!(
            refused(&format!("{group}batches: 1}}]\nhub: {{gateways: 1}}\nstorm: {{after_ms: 1}}"))
                .contains("storm")
        );
        assert!(Scenario::find("nothing").unwrap_err().to_string().contains("progress, paced"));
    }

    #[test]
    fn a_step_multiplies_those_who_submit() {
        let text = "about: x\ngroups: [{name: a, users: 3, batches: 1}, {name: b, users: 5}]\nsteps: [1, 4]";
        let scenario = Scenario::parse("x", text).unwrap();
        let users: Vec<_> = scenario.groups_at(4).iter().map(|group| group.users).collect();
        assert_eq!((users, scenario.submitters()), (vec![12, 5], 12));
    }
}
