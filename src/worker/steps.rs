//! What the items in work of one task say they are at, and which of it the watchers have still to be told. Pure.
//!
//! The newest step of an item replaces the one before, told or not, so there is at most one per item in work. A step that
//! is new is told within [`TELL_TICKS`]; all of them are told again every [`REPEAT_TICKS`], for those who came late. Not
//! here: which items are in work, and the event ([`super::progress`]).

use std::collections::BTreeMap;

use crate::task::Step;

/// Ticks between two tellings of one item's steps: half a second.
const TELL_TICKS: u32 = 5;
/// Ticks after which what was told is told again: five seconds.
const REPEAT_TICKS: u32 = 50;

/// The steps of the items in work.
#[derive(Debug, Default)]
pub(super) struct Steps {
    newest: BTreeMap<u32, Told>,
    ticks: u32,
}

#[derive(Debug)]
struct Told {
    step: Step,
    told: bool,
}

impl Steps {
    /// Takes in what an item is at. Whether pods are gone that were not when it said so last.
    pub(super) fn take(&mut self, index: u32, step: Step) -> bool {
        let before = self.newest.get(&index);
        if before.is_some_and(|known| known.step == step) {
            return false;
        }
        let gone = |step: &Step| step.pods.map_or(0, |pods| pods.gone);
        let got_on = before.is_some_and(|known| gone(&step) > gone(&known.step));
        self.newest.insert(index, Told { step, told: false });
        got_on
    }

    /// An item ended.
    pub(super) fn forget(&mut self, index: u32) {
        self.newest.remove(&index);
    }

    /// A tick passed. Returns the items whose step is due.
    pub(super) fn tick(&mut self) -> Vec<u32> {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(REPEAT_TICKS) {
            self.newest.values_mut().for_each(|known| known.told = false);
        }
        if !self.ticks.is_multiple_of(TELL_TICKS) {
            return Vec::new();
        }
        self.newest.iter().filter(|(_, known)| !known.told).map(|(index, _)| *index).collect()
    }

    /// The step of an item that is being told of.
    pub(super) fn told(&mut self, index: u32) -> Option<Step> {
        let known = self.newest.get_mut(&index)?;
        known.told = true;
        Some(known.step.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::PodCounts;

    fn gone(gone: u32) -> Step {
        Step {
            pods: Some(PodCounts { total: 9, gone, ..PodCounts::default() }),
            ..Step::doing("evicting pods")
        }
    }

    fn due(steps: &mut Steps, ticks: u32) -> Vec<u32> {
        (0..ticks).flat_map(|_| steps.tick()).collect()
    }

    #[test]
    fn the_newest_step_is_told_once_and_again_for_those_who_come_late() {
        let mut steps = Steps::default();
        assert!(!steps.take(7, gone(1)), "the first is no progress");
        assert!(steps.take(7, gone(3)) && !steps.take(7, gone(3)));
        assert_eq!(due(&mut steps, TELL_TICKS), [7]);
        assert_eq!(steps.told(7), Some(gone(3)));
        assert_eq!(due(&mut steps, REPEAT_TICKS - 2 * TELL_TICKS), [0; 0]);
        assert_eq!(due(&mut steps, TELL_TICKS), [7]);
        steps.forget(7);
        assert_eq!((due(&mut steps, REPEAT_TICKS), steps.told(7)), (Vec::new(), None));
    }
}
