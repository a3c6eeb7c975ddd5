//! A set of numbers as the ranges they form: a whole prefix is one entry, however large.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Disjoint ranges with gaps between them, by their first number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    ranges: BTreeMap<u128, u128>,
}

impl Spans {
    /// The least number, which is taken out.
    pub(super) fn pop_first(&mut self) -> Option<u128> {
        let (first, last) = self.ranges.pop_first()?;
        if first < last {
            self.ranges.insert(first + 1, last);
        }
        Some(first)
    }

    /// Whether all of `range` is in the set.
    pub(super) fn contains(&self, range: RangeInclusive<u128>) -> bool {
        self.ranges.range(..=range.start()).next_back().is_some_and(|(_, last)| last >= range.end())
    }

    /// Adds a range. What is in it already may be.
    pub(super) fn insert(&mut self, range: RangeInclusive<u128>) {
        let (mut first, mut last) = range.into_inner();
        if let Some((&before, &before_last)) = self.ranges.range(..=first).next_back()
            && before_last.saturating_add(1) >= first
        {
            (first, last) = (before, last.max(before_last));
        }
        while let Some((&next, &next_last)) = self.ranges.range(first..=last.saturating_add(1)).next_back() {
            self.ranges.remove(&next);
            last = last.max(next_last);
        }
        self.ranges.insert(first, last);
    }

    /// Takes a range out. What is not in it may be named.
    pub(super) fn remove(&mut self, range: RangeInclusive<u128>) {
        let (first, last) = range.into_inner();
        if let Some((&before, &before_last)) = self.ranges.range(..first).next_back()
            && before_last >= first
        {
            self.ranges.insert(before, first - 1);
            if before_last > last {
                self.ranges.insert(last + 1, before_last);
            }
        }
        while let Some((&next, &next_last)) = self.ranges.range(first..=last).next_back() {
            self.ranges.remove(&next);
            if next_last > last {
                self.ranges.insert(last + 1, next_last);
            }
        }
    }

    /// How many numbers there are; `u128::MAX` also for one more.
    pub(super) fn count(&self) -> u128 {
        self.ranges.iter().fold(0_u128, |sum, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn as_a_set_of_numbers_would(steps in proptest::collection::vec((0..4, 0..40_u128, 0..12_u128), 1..60)) {
            let (mut spans, mut twin) = (Spans::default(), BTreeSet::new());
            for (what, first, length) in steps {
                let range = first..=first + length;
                match what {
                    0 | 1 => {
                        spans.insert(range.clone());
                        twin.extend(range);
                    }
                    2 => {
                        spans.remove(range.clone());
                        twin.retain(|number| !range.contains(number));
                    }
                    _ => prop_assert_eq!(spans.pop_first(), twin.pop_first()),
                }
                prop_assert_eq!(spans.count(), twin.len() as u128);
                for first in 0..55 {
                    prop_assert_eq!(spans.contains(first..=first + 1), twin.contains(&first) && twin.contains(&(first + 1)));
                }
                // Ranges that touch are one.
                let ends: Vec<_> = spans.ranges.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < *pair[1].0));
            }
        }
    }

    #[test]
    fn the_greatest_numbers() {
        let mut spans = Spans::default();
        spans.insert(0..=u128::MAX);
        assert_eq!(spans.count(), u128::MAX);
        spans.remove(u128::MAX..=u128::MAX);
        spans.insert(u128::MAX..=u128::MAX);
        assert!(spans.contains(0..=u128::MAX));
        spans.remove(0..=u128::MAX);
        assert_eq!(spans.pop_first(), None);
    }
}
