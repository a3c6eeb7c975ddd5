//! What a client has named since it began to tell everything, so that the rest can go.
//!
//! One sync is open at a time, for the daemon and not for a connection: it survives a reconnect and ends where its epoch is
//! named. A name counts whoever says it, since what another client asks for in the meantime is not to be removed. A
//! request names its objects before it is carried out, so that a removal in progress sees it; a request that was in
//! progress when the sync began counts as well.
//!
//! Nothing is removed before the end. A sync that is never ended, or replaced by one of a greater epoch, has changed
//! nothing.

use super::wire::{BeginSync, ErrorCode, Fault, Gc, ObjectKind, ObjectName, Request, Response, SyncEnded};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names one sync may have; four times what fills a /16 with workloads, in some 30 MB.
const NAMES_MAX: usize = 262_144;

/// The account of names. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncBook(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    ended: Option<SyncEnded>,
    /// What requests in progress name, and how many.
    in_progress: HashMap<ObjectName, u32>,
}

#[derive(Debug)]
struct Open {
    epoch: u64,
    kinds: Vec<ObjectKind>,
    named: HashSet<ObjectName>,
}

/// What is to happen at the end of a sync.
#[derive(Debug)]
pub(super) enum Ending {
    /// It has happened before; this was the answer.
    Repeated(SyncEnded),
    /// Remove what this does not keep.
    Remove(Keep),
}

impl SyncBook {
    /// Begins a sync, or goes on with it where it is the one that is open.
    pub(super) fn begin(&self, begin: &BeginSync) -> Result<Response, Fault> {
        if let Some(kind) = begin.kinds.iter().find(|kind| !ObjectKind::ORDERED.contains(kind)) {
            return Err(not_ordered(*kind));
        }
        if begin.kinds.is_empty() {
            return Err(Fault::new(ErrorCode::InvalidArgument, "kinds is empty: name the kinds the sync covers"));
        }
        let mut state = self.state();
        let latest = state.open.as_ref().map(|open| open.epoch).max(state.ended.as_ref().map(|ended| ended.epoch));
        match &state.open {
            Some(open) if open.epoch == begin.epoch => {
                if open.kinds != begin.kinds {
                    return Err(Fault::new(
                        ErrorCode::Conflict,
                        format!("sync {} has begun with other kinds: begin one with a greater epoch", begin.epoch),
                    ));
                }
            }
            _ if Some(begin.epoch) <= latest => {
                return Err(Fault::new(
                    ErrorCode::Conflict,
                    format!("epoch {} is not greater than {}, the latest", begin.epoch, latest.unwrap_or_default()),
                )
                .with_hint("begin with a greater epoch: the time will do"));
            }
            _ => {
                let named = state.in_progress.keys().cloned().collect();
                state.open = Some(Open { epoch: begin.epoch, kinds: begin.kinds.clone(), named });
            }
        }
        Ok(Response::SyncBegun { epoch: begin.epoch })
    }

    /// Notes what a request names, until the guard is dropped and, if a sync is open, beyond.
    pub(super) fn note(&self, request: &Request) -> NameGuard {
        let names = request.names();
        if !names.is_empty() {
            let mut state = self.state();
            for name in &names {
                *state.in_progress.entry(name.clone()).or_default() += 1;
                state.name(name);
            }
        }
        NameGuard { book: self.clone(), names }
    }

    /// Notes the address that `response` gives out.
    pub(super) fn note_answer(&self, response: &Response) {
        if let Response::Ip { ip } | Response::Attached { ip, .. } = response {
            self.state().name(&ObjectName { kind: ObjectKind::Leases, key: ip.to_string() });
        }
    }

    /// Ends the sync of this epoch.
    pub(super) fn end(&self, epoch: u64) -> Result<Ending, Fault> {
        let state = self.state();
        if let Some(ended) = state.ended.as_ref().filter(|ended| ended.epoch == epoch) {
            return Ok(Ending::Repeated(ended.clone()));
        }
        match &state.open {
            Some(open) if open.epoch == epoch && open.named.len() > NAMES_MAX => Err(Fault::new(
                ErrorCode::Exhausted,
                format!("sync {epoch} named more than {NAMES_MAX} objects; nothing was removed"),
            )),
            Some(open) if open.epoch == epoch => {
                let kinds = open.kinds.clone();
                Ok(Ending::Remove(Keep(Kept::Sync { book: self.clone(), epoch, kinds })))
            }
            Some(open) => Err(Fault::new(ErrorCode::Conflict, format!("the sync that is open is {}", open.epoch))),
            None => Err(Fault::new(
                ErrorCode::NotFound,
                format!("no sync {epoch} is open: the daemon may have started anew"),
            )
            .with_hint("begin again and name everything again")),
        }
    }

    /// Notes what came of the end.
    pub(super) fn ended(&self, ended: SyncEnded) {
        let mut state = self.state();
        if state.open.as_ref().is_some_and(|open| open.epoch == ended.epoch) {
            state.open = None;
        }
        state.ended = Some(ended);
    }

    /// Epoch of the sync that ended last.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.state().ended.as_ref().map(|ended| ended.epoch)
    }

    /// Whether the open sync of `epoch` has named this. Another that has taken its place keeps everything.
    fn keeps(&self, epoch: u64, name: &ObjectName) -> bool {
        self.state().open.as_ref().is_none_or(|open| open.epoch != epoch || open.named.contains(name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn name(&mut self, name: &ObjectName) {
        // One beyond the bound tells that it was met.
        if let Some(open) = &mut self.open
            && open.kinds.contains(&name.kind)
            && open.named.len() <= NAMES_MAX
        {
            open.named.insert(name.clone());
        }
    }
}

/// While it is there, a request with these names is in progress.
#[derive(Debug)]
pub(super) struct NameGuard {
    book: SyncBook,
    names: Vec<ObjectName>,
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut state = self.book.state();
        for name in &self.names {
            if let Some(count) = state.in_progress.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    state.in_progress.remove(name);
                }
            }
        }
    }
}

/// What is to stay when the rest is removed.
#[derive(Clone, Debug)]
pub struct Keep(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Sync { book: SyncBook, epoch: u64, kinds: Vec<ObjectKind> },
    Listed(Arc<BTreeMap<ObjectKind, HashSet<String>>>),
}

impl Keep {
    /// What a `gc` lists.
    ///
    /// # Errors
    /// A kind of which nothing can be removed.
    pub fn listed(gc: Gc) -> Result<Self, Fault> {
        if let Some(kind) = gc.keep.keys().find(|kind| !ObjectKind::ORDERED.contains(kind)) {
            return Err(not_ordered(*kind));
        }
        let sets = gc.keep.into_iter().map(|(kind, keys)| (kind, keys.into_iter().collect()));
        Ok(Self(Kept::Listed(Arc::new(sets.collect()))))
    }

    /// Whether objects of this kind may be removed at all.
    #[must_use]
    pub fn covers(&self, kind: ObjectKind) -> bool {
        match &self.0 {
            Kept::Sync { kinds, .. } => kinds.contains(&kind),
            Kept::Listed(sets) => sets.contains_key(&kind),
        }
    }

    /// Whether this object is to stay. To be asked right before the removal, where requests for the object wait already:
    /// the answer may become yes at any time before.
    #[must_use]
    pub fn keeps(&self, name: &ObjectName) -> bool {
        match &self.0 {
            Kept::Sync { book, epoch, kinds } => !kinds.contains(&name.kind) || book.keeps(*epoch, name),
            Kept::Listed(sets) => sets.get(&name.kind).is_none_or(|keys| keys.contains(&name.key)),
        }
    }
}

fn not_ordered(kind: ObjectKind) -> Fault {
    let name = kind.name();
    let ordered = ObjectKind::ORDERED.map(ObjectKind::name).join(", ");
    Fault::new(ErrorCode::InvalidArgument, format!("{name} are not ordered by anybody: the kinds are {ordered}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(epoch: u64, kinds: &[ObjectKind]) -> BeginSync {
        BeginSync { epoch, kinds: kinds.to_vec() }
    }

    fn dns(name: &str) -> Request {
        Request::RegisterDns { name: name.into(), ip: "10.0.0.1".parse().unwrap() }
    }

    fn object(kind: ObjectKind, key: &str) -> ObjectName {
        ObjectName { kind, key: key.into() }
    }

    fn keep(book: &SyncBook, epoch: u64) -> Keep {
        match book.end(epoch) {
            Ok(Ending::Remove(keep)) => keep,
            other => panic!("{other:?}"),
        }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> ErrorCode {
        result.unwrap_err().code.unwrap()
    }

    #[test]
    fn what_is_named_between_begin_and_end_is_kept() {
        let book = SyncBook::default();
        drop(book.note(&dns("early")));
        let before = book.note(&dns("In.Progress."));
        book.begin(&begin(5, &[ObjectKind::Dns, ObjectKind::Leases])).unwrap();
        drop(before);
        drop(book.note(&dns("named")));
        book.note_answer(&Response::Ip { ip: "10.0.0.9".parse().unwrap() });
        let keep = keep(&book, 5);
        assert!(keep.covers(ObjectKind::Dns) && !keep.covers(ObjectKind::Peers));
        for (name, stays) in [("early", false), ("in.progress", true), ("named", true), ("late", false)] {
            assert_eq!(keep.keeps(&object(ObjectKind::Dns, name)), stays, "{name}");
        }
        assert!(
            keep.keeps(&object(ObjectKind::Leases, "10.0.0.9")) && !keep.keeps(&object(ObjectKind::Leases, "10.0.0.8"))
        );
        assert!(keep.keeps(&object(ObjectKind::Peers, "of a kind that is not covered")));
        // Named while the removal goes on.
        drop(book.note(&dns("late")));
        assert!(keep.keeps(&object(ObjectKind::Dns, "late")));
    }

    #[test]
    fn every_step_may_be_repeated() {
        let book = SyncBook::default();
        assert_eq!(code(book.end(1)), ErrorCode::NotFound);
        let first = begin(7, &[ObjectKind::Dns]);
        assert_eq!(book.begin(&first), Ok(Response::SyncBegun { epoch: 7 }));
        drop(book.note(&dns("a")));
        assert_eq!(book.begin(&first), Ok(Response::SyncBegun { epoch: 7 }));
        assert!(keep(&book, 7).keeps(&object(ObjectKind::Dns, "a")), "a repeated begin forgot a name");
        assert_eq!(code(book.begin(&begin(7, &[ObjectKind::Peers]))), ErrorCode::Conflict);
        let ended = SyncEnded { epoch: 7, removed: vec![object(ObjectKind::Dns, "b")].into() };
        book.ended(ended.clone());
        assert!(matches!(book.end(7), Ok(Ending::Repeated(again)) if again == ended));
        assert_eq!(book.epoch(), Some(7));
        for stale in [6, 7] {
            assert_eq!(code(book.begin(&begin(stale, &[ObjectKind::Dns]))), ErrorCode::Conflict);
        }
    }

    #[test]
    fn a_greater_epoch_takes_the_place_of_an_abandoned_one_which_removes_nothing() {
        let book = SyncBook::default();
        book.begin(&begin(1, &[ObjectKind::Dns])).unwrap();
        let abandoned = keep(&book, 1);
        assert!(!abandoned.keeps(&object(ObjectKind::Dns, "a")));
        book.begin(&begin(2, &[ObjectKind::Dns])).unwrap();
        assert!(abandoned.keeps(&object(ObjectKind::Dns, "a")));
        assert_eq!(code(book.end(1)), ErrorCode::Conflict);
        assert_eq!(code(book.begin(&begin(1, &[ObjectKind::Dns]))), ErrorCode::Conflict);
    }

    #[test]
    fn only_what_somebody_ordered_can_be_covered() {
        let book = SyncBook::default();
        assert_eq!(code(book.begin(&begin(1, &[ObjectKind::Drops]))), ErrorCode::InvalidArgument);
        assert_eq!(code(book.begin(&begin(1, &[]))), ErrorCode::InvalidArgument);
        let gc = |kind, keys: &[&str]| Gc { keep: [(kind, keys.iter().map(|key| (*key).to_owned()).collect())].into() };
        assert_eq!(code(Keep::listed(gc(ObjectKind::Events, &[]))), ErrorCode::InvalidArgument);
        let keep = Keep::listed(gc(ObjectKind::Peers, &["a"])).unwrap();
        assert!(keep.keeps(&object(ObjectKind::Peers, "a")) && !keep.keeps(&object(ObjectKind::Peers, "b")));
        assert!(keep.keeps(&object(ObjectKind::Dns, "b")) && !keep.covers(ObjectKind::Dns));
    }

    #[test]
    fn too_many_names_end_nothing() {
        let book = SyncBook::default();
        book.begin(&begin(1, &[ObjectKind::Dns])).unwrap();
        for number in 0..=NAMES_MAX + 10 {
            book.state().name(&object(ObjectKind::Dns, &number.to_string()));
        }
        assert_eq!(code(book.end(1)), ErrorCode::Exhausted);
        assert!(book.state().open.as_ref().unwrap().named.len() <= NAMES_MAX + 1);
    }
}
