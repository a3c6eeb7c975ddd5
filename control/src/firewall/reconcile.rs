//! Comparing the kernel's ruleset with what it is to be, and making it so.
//!
//! Where a table's structure differs in anything, the table is made again, at once with its elements; where only elements
//! differ, only those are changed. What was read is acted upon only as long as the ruleset is of the generation it was read
//! in.

use super::elements::{Edit, Edits, Net};
use super::error::FirewallError;
use super::limits::COMMIT_TRIES_MAX;
use super::nft::{Batch, Element, Family, Nft, NftError, Rule, Table, equal_but_for_counts};
use super::ruleset::{Place, SetId, Structure, TABLE_COMMENT, structure, table_name};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::thread;
use std::time::Duration;

/// The ruleset as it is to be.
#[derive(Debug)]
pub(super) struct Expected {
    /// Name of our tables.
    table: String,
    structures: [(Place, Structure); 2],
    elements: HashMap<SetId, HashSet<Element>>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub(super) struct Reconciled {
    /// Tables made again, or for the first time.
    pub(super) built: Vec<Place>,
    /// Elements changed in the others.
    pub(super) net: Net,
    /// Messages sent.
    pub(super) messages: usize,
}

impl Reconciled {
    pub(super) fn is_change(&self) -> bool {
        self.messages > 0
    }
}

impl Expected {
    /// The ruleset of `instance` with nothing in it.
    pub(super) fn new(instance: &str) -> Self {
        Self {
            table: table_name(instance),
            structures: Place::ALL.map(|place| (place, structure(place, instance))),
            elements: SetId::ALL.map(|id| (id, HashSet::new())).into(),
        }
    }

    /// What is expected of every set that is not empty.
    #[cfg(test)]
    pub(super) fn elements(&self) -> HashMap<SetId, HashSet<Element>> {
        let filled = self.elements.iter().filter(|(_, elements)| !elements.is_empty());
        filled.map(|(id, elements)| (*id, elements.clone())).collect()
    }

    /// Name of our tables.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// All that there is, as if it were to go.
    pub(super) fn all(&self) -> Net {
        let removed = self.elements.iter().map(|(id, elements)| (*id, in_order(elements))).collect();
        Net { removed, ..Net::default() }
    }

    /// Takes over changes.
    pub(super) fn edit(&mut self, edits: &Edits) {
        edits.iter().for_each(|edit| self.set_element(edit, edit.add));
    }

    /// Takes changes back.
    pub(super) fn take_back(&mut self, edits: &Edits) {
        edits.iter().rev().for_each(|edit| self.set_element(edit, !edit.add));
    }

    fn set_element(&mut self, edit: &Edit, there: bool) {
        let elements = self.elements.entry(edit.set).or_default();
        if there {
            elements.insert(edit.element.clone());
        } else {
            elements.remove(&edit.element);
        }
    }

    /// The batch for changes.
    pub(super) fn batch(&self, net: &Net) -> Batch {
        let mut batch = Batch::default();
        for (set, elements) in &net.removed {
            batch.delete_elements(&set.set(&self.table), elements);
        }
        for (set, elements) in &net.added {
            batch.add_elements(&set.set(&self.table), elements);
        }
        batch
    }

    /// Makes the kernel's ruleset this one. Sends nothing where it is.
    pub(super) fn reconcile(&self, nft: &mut Nft) -> Result<Reconciled, FirewallError> {
        let mut done = Reconciled::default();
        let mut superseded = 0;
        loop {
            let generation = nft.generation()?;
            let plan = match self.plan(nft) {
                // What is listed of a table that goes at that moment.
                Err(FirewallError::Nft(NftError::List { .. })) if nft.generation()? != generation => None,
                plan => Some(plan?),
            };
            let Some(plan) = plan.filter(|plan| !plan.batch.is_empty()) else {
                if nft.generation()? == generation {
                    return Ok(done);
                }
                superseded += 1;
                if superseded >= COMMIT_TRIES_MAX {
                    return Err(FirewallError::Contended);
                }
                continue;
            };
            match nft.commit(&plan.batch, Some(generation)) {
                Ok(()) => {
                    done.messages += plan.batch.messages();
                    done.built.extend(plan.built);
                    done.net.extend(plan.net);
                    if plan.complete {
                        return Ok(done);
                    }
                }
                Err(NftError::Superseded) if superseded < COMMIT_TRIES_MAX => superseded += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes our tables and tells whether there were any.
    pub(super) fn remove(&self, nft: &mut Nft) -> Result<bool, FirewallError> {
        for _ in 0..COMMIT_TRIES_MAX {
            let generation = nft.generation()?;
            let mut batch = Batch::default();
            for (place, _) in self.ours_among(&nft.tables(Family::Any)?)? {
                batch.delete_table(place.family(), &self.table);
            }
            match nft.commit(&batch, Some(generation)) {
                Ok(()) => return Ok(!batch.is_empty()),
                Err(NftError::Superseded) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(FirewallError::Contended)
    }

    /// Our tables, by place.
    fn ours_among<'a>(&self, tables: &'a [Table]) -> Result<BTreeMap<Place, &'a Table>, FirewallError> {
        let mut ours = BTreeMap::new();
        for place in Place::ALL {
            let found = tables.iter().find(|table| table.family == place.family() && table.name == self.table);
            match found {
                Some(table) if table.comment.as_deref() != Some(TABLE_COMMENT) => {
                    return Err(FirewallError::ForeignTable { family: table.family.name(), name: table.name.clone() });
                }
                Some(table) => drop(ours.insert(place, table)),
                None => {}
            }
        }
        Ok(ours)
    }

    fn plan(&self, nft: &mut Nft) -> Result<Plan, FirewallError> {
        let mut plan = Plan { bytes_max: nft.batch_bytes_max(), complete: true, ..Plan::default() };
        let tables = nft.tables(Family::Any)?;
        let there = self.ours_among(&tables)?;
        for (place, structure) in &self.structures {
            let is_there = there.contains_key(place);
            // Somebody may have switched it off.
            let is_sound =
                there.get(place).is_some_and(|table| **table == structure.table) && is_sound(nft, structure)?;
            let elements = if is_sound { self.read_elements(nft, *place)? } else { None };
            match elements {
                Some(elements) => self.plan_elements(&elements, &mut plan),
                None => self.plan_table(*place, structure, is_there, &mut plan),
            }
        }
        Ok(plan)
    }

    /// The elements of the sets; `None` where one has elements that this program does not make.
    fn read_elements(
        &self,
        nft: &mut Nft,
        place: Place,
    ) -> Result<Option<HashMap<SetId, HashSet<Element>>>, FirewallError> {
        let mut all = HashMap::new();
        for id in sets_at(place) {
            let expected = &self.elements[&id];
            let Some(mut list) = nft.elements(place.family(), &self.table, id.name())? else { return Ok(None) };
            let mut found: HashSet<_> = list.iter().cloned().collect();
            // A long list may lack what was moved while it was read, because the kernel resizes a table some time after
            // it grew. What any list tells is there, and two that are the same are complete. To add what is there would do
            // no harm, but it would be told as a repair.
            for _ in 0..RESIZE_READS_MAX {
                if expected.len() < LONG_LIST || expected.is_subset(&found) {
                    break;
                }
                thread::sleep(RESIZE_PAUSE);
                let Some(again) = nft.elements(place.family(), &self.table, id.name())? else { return Ok(None) };
                let same = again == list;
                found.extend(again.iter().cloned());
                list = again;
                if same {
                    break;
                }
            }
            all.insert(id, found);
        }
        Ok(Some(all))
    }

    fn plan_elements(&self, found: &HashMap<SetId, HashSet<Element>>, plan: &mut Plan) {
        for (id, found) in found {
            let expected = &self.elements[id];
            if found == expected {
                continue;
            }
            let set = id.set(&self.table);
            if id.has_range_ends() {
                plan.batch.flush_set(&set);
                plan.batch.add_elements(&set, &in_order(expected));
                continue;
            }
            let removed = in_order(found.difference(expected));
            let added = in_order(expected.difference(found));
            let taken = plan.fill(&removed, |batch, some| batch.delete_elements(&set, some));
            plan.net.removed.entry(*id).or_default().extend(removed.into_iter().take(taken));
            let taken = plan.fill(&added, |batch, some| batch.add_elements(&set, some));
            plan.net.added.entry(*id).or_default().extend(added.into_iter().take(taken));
        }
    }

    fn plan_table(&self, place: Place, structure: &Structure, is_there: bool, plan: &mut Plan) {
        if is_there {
            plan.batch.delete_table(place.family(), &self.table);
        }
        plan.batch.add_table(&structure.table);
        structure.chains.iter().for_each(|chain| plan.batch.add_chain(chain));
        structure.sets.iter().for_each(|set| plan.batch.add_set(set));
        structure.rules.iter().for_each(|rule| plan.batch.append_rule(rule));
        for id in sets_at(place) {
            let set = id.set(&self.table);
            let elements = in_order(&self.elements[&id]);
            if id.has_range_ends() {
                plan.batch.add_elements(&set, &elements);
            } else {
                plan.fill(&elements, |batch, some| batch.add_elements(&set, some));
            }
        }
        plan.built.push(place);
    }
}

/// Elements of which a list certainly comes in one piece, which the kernel puts together in one go.
const LONG_LIST: usize = 100;

/// Between two readings of a list that lacks something: long enough for a resizing to get on. And how many at most, far
/// beyond what the largest table takes.
const RESIZE_PAUSE: Duration = Duration::from_millis(1);
const RESIZE_READS_MAX: usize = 50;

/// Elements after which a batch is looked at for its length, and room kept for as many.
const ELEMENTS_STEP: usize = 256;
const BATCH_MARGIN_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Plan {
    batch: Batch,
    /// What the batch may grow to.
    bytes_max: usize,
    built: Vec<Place>,
    net: Net,
    complete: bool,
}

impl Plan {
    /// Adds as many of the elements as the batch takes, and tells how many; the rest is for the next. Of a table that is
    /// being built, those are missing until then, by which more is dropped and nothing let through. Ranges do not come
    /// here: they stay together, and their number is bounded so that they fit.
    fn fill(&mut self, elements: &[Element], add: impl Fn(&mut Batch, &[Element])) -> usize {
        let mut taken = 0;
        for some in elements.chunks(ELEMENTS_STEP) {
            if self.batch.bytes() + BATCH_MARGIN_BYTES > self.bytes_max {
                self.complete = false;
                break;
            }
            add(&mut self.batch, some);
            taken += some.len();
        }
        taken
    }
}

fn sets_at(place: Place) -> impl Iterator<Item = SetId> {
    SetId::ALL.into_iter().filter(move |id| id.place() == place)
}

/// By key, the end of a range before the beginning of the next, as the kernel expects them.
fn in_order<'a>(elements: impl IntoIterator<Item = &'a Element>) -> Vec<Element> {
    let mut elements: Vec<_> = elements.into_iter().cloned().collect();
    elements.sort_unstable();
    elements
}

/// Whether the table has these chains, rules and sets and no others.
fn is_sound(nft: &mut Nft, expected: &Structure) -> Result<bool, FirewallError> {
    let (family, name) = (expected.table.family, expected.table.name.as_str());
    let mut chains = nft.chains(family, Some(name))?;
    chains.retain(|chain| chain.family == family);
    let same_chains = by_name(&chains, |chain| &chain.name) == by_name(&expected.chains, |chain| &chain.name);
    if !same_chains || !same_rules(&nft.rules(family, name, None)?, &expected.rules) {
        return Ok(false);
    }
    let sets: Option<Vec<_>> = nft.sets(family, name)?.into_iter().collect();
    Ok(sets.is_some_and(|sets| by_name(&sets, |set| &set.name) == by_name(&expected.sets, |set| &set.name)))
}

fn by_name<T>(objects: &[T], name: impl Fn(&T) -> &String) -> BTreeMap<&String, &T> {
    objects.iter().map(|object| (name(object), object)).collect()
}

/// Whether the rules of each chain are the same, in the same order.
fn same_rules(found: &[Rule], expected: &[Rule]) -> bool {
    fn by_chain(rules: &[Rule]) -> BTreeMap<&str, Vec<&Rule>> {
        let mut chains = BTreeMap::<_, Vec<_>>::new();
        for rule in rules {
            chains.entry(rule.chain.as_str()).or_default().push(rule);
        }
        chains
    }
    let (found, expected) = (by_chain(found), by_chain(expected));
    let same = |a: &Rule, b: &Rule| a.comment == b.comment && equal_but_for_counts(&a.expressions, &b.expressions);
    found.len() == expected.len()
        && found.iter().zip(&expected).all(|((a, found), (b, expected))| {
            a == b && found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(a, b))
        })
}
