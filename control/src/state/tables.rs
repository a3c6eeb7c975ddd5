//! The objects of a store in memory: a map in the order of the snapshot.

use super::record::{Key, Kind, Object, Record, Transaction};
use std::collections::BTreeMap;

/// Objects by their keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    objects: BTreeMap<Key, Object>,
    counts: BTreeMap<Kind, usize>,
}

impl Tables {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// All of them, kind by kind, each kind by id.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// Those of one type, by id.
    pub fn all<T: Record>(&self) -> impl Iterator<Item = &T> {
        let first = Key { kind: T::KIND, id: String::new() };
        self.objects.range(first..).map_while(|(key, object)| if key.kind == T::KIND { T::of(object) } else { None })
    }

    /// The one of this type and id.
    #[must_use]
    pub fn find<T: Record>(&self, id: &str) -> Option<&T> {
        self.objects.get(&Key { kind: T::KIND, id: id.to_owned() }).and_then(T::of)
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Makes the changes of `transaction`.
    pub(super) fn apply(&mut self, transaction: Transaction) {
        for object in transaction.puts {
            let key = object.key();
            let kind = key.kind;
            if self.objects.insert(key, object).is_none() {
                *self.counts.entry(kind).or_default() += 1;
            }
        }
        for key in &transaction.deletions {
            if self.objects.remove(key).is_some()
                && let Some(count) = self.counts.get_mut(&key.kind)
            {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key.kind);
                }
            }
        }
    }
}
