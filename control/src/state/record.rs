//! What a store holds: objects of a few kinds, each found by its kind and an id, and changes of several at once.
//!
//! To add a kind: its type in `records`, a line in the list below, and a rise of [`super::VERSION`], because an older
//! daemon would not know it.

use super::records::{
    Attachment, Bridge, GlobalOverlay, Identity, Lease, Name, Network, Peer, Seal, Service, Settings, Sysctls,
};
use serde::{Deserialize, Serialize};

/// A type of object that a store can hold.
pub trait Record: Clone + Into<Object> + 'static {
    /// Its kind.
    const KIND: Kind;

    /// What tells this object from others of its kind. Two objects with one id are versions of the same.
    fn id(&self) -> String;

    /// The object as this type, if it is of this kind.
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The kinds of objects, in the order in which they are written.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $name,)+ }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Object { $($(#[$doc])* $name($name),)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$name),+];
        }

        impl Object {
            /// What the object is found by.
            #[must_use]
            pub fn key(&self) -> Key {
                match self { $(Object::$name(record) => Key { kind: Kind::$name, id: record.identify() },)+ }
            }
        }

        $(
            impl From<$name> for Object {
                fn from(record: $name) -> Self { Object::$name(record) }
            }

            impl Record for $name {
                const KIND: Kind = Kind::$name;

                fn id(&self) -> String { self.identify() }

                fn of(object: &Object) -> Option<&Self> {
                    match object { Object::$name(record) => Some(record), _ => None }
                }
            }
        )+
    };
}

kinds! {
    /// What the node was told about itself.
    Settings,
    /// The global overlay that is to be up.
    GlobalOverlay,
    /// Key and port of a dedicated overlay; outlives it.
    Identity,
    /// What the record for the replaced daemon is known to say.
    Seal,
    /// A service that is set up.
    Service,
    /// A bridge and its subnet.
    Bridge,
    /// A WireGuard peer.
    Peer,
    /// An address in use or in quarantine.
    Lease,
    /// A workload on the overlay.
    Attachment,
    /// A name and its addresses.
    Name,
    /// Kernel settings that were changed.
    Sysctls,
    /// The members on other nodes of an isolation network.
    Network,
}

/// What an object is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its id within the kind; see [`Record::id`].
    pub id: String,
}

impl Key {
    /// The key of the `T` with this id.
    pub fn of<T: Record>(id: impl Into<String>) -> Self {
        Self { kind: T::KIND, id: id.into() }
    }
}

/// Changes that happen together or not at all. Deletions come last: an object that is put and deleted is gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// Objects to add, or to take the place of those with the same key.
    #[serde(default, rename = "put", skip_serializing_if = "Vec::is_empty")]
    pub puts: Vec<Object>,
    /// Objects to remove; those that are not there are removed already.
    #[serde(default, rename = "del", skip_serializing_if = "Vec::is_empty")]
    pub deletions: Vec<Key>,
}

impl Transaction {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// And adds or replaces `object`.
    #[must_use]
    pub fn put(mut self, object: impl Into<Object>) -> Self {
        self.puts.push(object.into());
        self
    }

    /// And removes the `T` with this id.
    #[must_use]
    pub fn delete<T: Record>(mut self, id: impl Into<String>) -> Self {
        self.deletions.push(Key::of::<T>(id));
        self
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletions.is_empty()
    }
}
