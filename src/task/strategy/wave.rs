//! An order cut into waves, and which wave is open.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Amount;

/// Which wave of how many a task is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WaveMark {
    /// From 1: the wave that is open, or opens next.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl fmt::Display for WaveMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wave {} of {}", self.number, self.of)
    }
}

/// Places of an order, cut into waves: every place is in exactly one. Places and waves follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waves {
    /// Where each of the first waves ends, by place.
    ends: Vec<u32>,
    /// Size of every wave after those; 0 when there is none.
    repeat: u32,
    total: u32,
}

impl Waves {
    /// First the canary, then the sizes one after the other, and the last size again for all that is left. Without any
    /// size the rest is one wave.
    pub(super) fn new(canary: Option<u32>, sizes: &[Amount], total: u32) -> Self {
        let sizes = sizes.iter().map(|size| size.up(total).max(1));
        let mut ends: Vec<u32> = Vec::new();
        let mut repeat = total;
        for (is_canary, size) in canary.map(|n| (true, n)).into_iter().chain(sizes.map(|n| (false, n))) {
            let end = ends.last().copied().unwrap_or(0).saturating_add(size).min(total);
            if ends.last() != Some(&end) {
                ends.push(end);
            }
            if !is_canary {
                repeat = size;
            }
        }
        Self { ends, repeat, total }
    }

    /// How many waves there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        let left = self.total - self.first_end();
        self.first_count() + if left == 0 { 0 } else { left.div_ceil(self.repeat.max(1)) }
    }

    /// The wave of a place, from 1.
    #[must_use]
    pub fn of(&self, place: u32) -> u32 {
        let first = self.ends.partition_point(|end| *end <= place);
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        match place.checked_sub(self.first_end()) {
            Some(after) => first + after / self.repeat.max(1) + 1,
            None => first + 1,
        }
    }

    /// The places of a wave. Empty for a number that no wave has.
    #[must_use]
    pub fn range(&self, wave: u32) -> Range<u32> {
        if wave == 0 {
            return 0..0;
        }
        self.end(wave - 1)..self.end(wave)
    }

    /// Where a task stands that has finished so many items. Waves follow one another, so their number alone says it.
    /// `None` for a task of a single wave.
    #[must_use]
    pub fn mark(&self, finished: u32) -> Option<WaveMark> {
        let of = self.count();
        (of > 1).then(|| WaveMark { number: self.of(finished).min(of), of })
    }

    fn end(&self, wave: u32) -> u32 {
        match (wave as usize).checked_sub(1).map(|i| self.ends.get(i)) {
            None => 0,
            Some(Some(end)) => *end,
            Some(None) => {
                let more = (wave - self.first_count()).saturating_mul(self.repeat);
                self.first_end().saturating_add(more).min(self.total)
            }
        }
    }

    fn first_end(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn first_count(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(waves: &Waves) -> Vec<u32> {
        (1..=waves.count()).map(|wave| u32::try_from(waves.range(wave).len()).unwrap()).collect()
    }

    #[test]
    fn the_canary_goes_first_and_the_last_size_repeats() {
        let cut = |canary, sizes: &[Amount], total| Waves::new(canary, sizes, total);
        let ten = Amount::Percent(10);
        assert_eq!(sizes(&cut(None, &[ten], 200)), [20; 10]);
        assert_eq!(sizes(&cut(Some(1), &[ten], 25)), [1, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(sizes(&cut(Some(1), &[], 25)), [1, 24]);
        assert_eq!(
            sizes(&cut(None, &[Amount::Count(1), Amount::Count(5), Amount::Percent(50)], 20)),
            [1, 5, 10, 4]
        );
        assert_eq!(sizes(&cut(None, &[], 7)), [7]);
        assert_eq!(sizes(&cut(Some(9), &[Amount::Count(4)], 7)), [7]);
    }

    #[test]
    fn the_mark_says_where_a_task_stands() {
        let waves = Waves::new(Some(1), &[Amount::Count(4)], 9);
        let at = |finished| waves.mark(finished).map(|mark| mark.to_string()).unwrap_or_default();
        assert_eq!(
            [0, 1, 4, 5, 9].map(at),
            ["wave 1 of 3", "wave 2 of 3", "wave 2 of 3", "wave 3 of 3", "wave 3 of 3"]
        );
        assert_eq!(Waves::new(None, &[], 9).mark(3), None);
    }

    fn any_amount() -> impl Strategy<Value = Amount> {
        prop_oneof![(1_u32..50).prop_map(Amount::Count), (1_u8..=100).prop_map(Amount::Percent)]
    }

    proptest! {
        #[test]
        fn every_place_is_in_exactly_one_wave_and_none_is_larger_than_asked_for(
            canary in prop::option::of(1_u32..50), amounts in prop::collection::vec(any_amount(), 0..5), total in 1_u32..300,
        ) {
            let waves = Waves::new(canary, &amounts, total);
            let mut next = 0;
            for wave in 1..=waves.count() {
                let range = waves.range(wave);
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty());
                for place in range.clone() {
                    prop_assert_eq!(waves.of(place), wave);
                }
                let size = u32::try_from(range.len()).unwrap();
                let asked: Vec<u32> = canary.into_iter().chain(amounts.iter().map(|a| a.up(total))).collect();
                let of_wave = asked.get(wave as usize - 1).or(asked.last().filter(|_| !amounts.is_empty()));
                prop_assert!(size <= of_wave.copied().unwrap_or(total));
                next = range.end;
            }
            prop_assert_eq!(next, total);
            prop_assert!(waves.range(waves.count() + 1).is_empty() && waves.range(0).is_empty());
        }

        #[test]
        fn a_task_that_resumes_stands_where_it_stood(
            canary in prop::option::of(1_u32..50), amounts in prop::collection::vec(any_amount(), 0..5),
            total in 1_u32..300, share in 0_u32..=100,
        ) {
            let waves = Waves::new(canary, &amounts, total);
            let finished = total * share / 100;
            if let Some(mark) = waves.mark(finished) {
                prop_assert_eq!(mark.of, waves.count());
                let range = waves.range(mark.number);
                prop_assert!(range.contains(&finished) || finished == total);
            }
        }
    }
}
