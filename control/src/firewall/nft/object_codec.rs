//! Objects on the wire, and events that tell of them.

use super::expression::Expression;
use super::object::{Base, Chain, Element, Family, Hook, Kind, Rule, Set, Table};
use crate::firewall::netfilter::{Attributes, Frame, SUBSYSTEM_NFTABLES, Writer, be32, be64, text};

/// `NFT_MSG_…`.
pub(super) mod message {
    pub const NEW_TABLE: u8 = 0;
    pub const GET_TABLE: u8 = 1;
    pub const DELETE_TABLE: u8 = 2;
    pub const NEW_CHAIN: u8 = 3;
    pub const GET_CHAIN: u8 = 4;
    pub const DELETE_CHAIN: u8 = 5;
    pub const NEW_RULE: u8 = 6;
    pub const GET_RULE: u8 = 7;
    pub const DELETE_RULE: u8 = 8;
    pub const NEW_SET: u8 = 9;
    pub const GET_SET: u8 = 10;
    pub const DELETE_SET: u8 = 11;
    pub const NEW_ELEMENTS: u8 = 12;
    pub const GET_ELEMENTS: u8 = 13;
    pub const DELETE_ELEMENTS: u8 = 14;
    pub const NEW_GENERATION: u8 = 15;
    pub const GET_GENERATION: u8 = 16;
}

/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;

/// Of `NFTA_TABLE_…`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USERDATA: u16 = 6;
/// `NFT_TABLE_F_DORMANT`, `NFT_TABLE_F_OWNER`.
const TABLE_DORMANT: u32 = 1;
const TABLE_OWNED: u32 = 2;

/// Of `NFTA_CHAIN_…`.
pub(super) const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_KIND: u16 = 7;
/// Of `NFTA_HOOK_…`.
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

/// Of `NFTA_RULE_…`.
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

/// Of `NFTA_SET_…`.
pub(super) const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_KIND: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_VALUE_KIND: u16 = 6;
const SET_VALUE_LEN: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
/// Of `NFT_SET_…`.
const SET_RANGES: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_PARTS: u32 = 0x80;
/// `NFTA_SET_DESC_CONCAT`, `NFTA_SET_FIELD_LEN`.
const DESCRIPTION_PARTS: u16 = 2;
const PART_LEN: u16 = 1;

/// Of `NFTA_SET_ELEM_LIST_…`.
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
/// Of `NFTA_SET_ELEM_…`.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`.
const ELEMENT_RANGE_END: u32 = 1;

/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;

/// Of `NFTA_GEN_…`.
const GENERATION_ID: u16 = 1;
const GENERATION_PROCESS: u16 = 2;
const GENERATION_PROGRAM: u16 = 3;

/// A comment in userdata: type 0, length, text, zero byte, as libnftnl has it for tables and rules alike.
const COMMENT: u8 = 0;

/// Longest comment: `NFT_USERDATA_MAXLEN` without what is around it.
pub(super) const COMMENT_BYTES_MAX: usize = 250;

fn write_comment(kind: u16, comment: &str, writer: &mut Writer) {
    let mut userdata = vec![COMMENT, u8::try_from(comment.len() + 1).expect("comments are bounded")];
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    writer.bytes(kind, &userdata);
}

fn read_comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let Some(([kind, len], behind)) = rest.split_first_chunk::<2>() {
        let payload = behind.get(..usize::from(*len))?;
        if *kind == COMMENT {
            return text(payload);
        }
        rest = &behind[payload.len()..];
    }
    None
}

impl Table {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(TABLE_NAME, &self.name);
        if let Some(comment) = &self.comment {
            write_comment(TABLE_USERDATA, comment, writer);
        }
    }

    pub(super) fn read(family: u8, body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body);
        let flags = attributes.find(TABLE_FLAGS).and_then(be32).unwrap_or(0);
        Some(Self {
            family: Family::from_wire(family),
            name: attributes.find(TABLE_NAME).and_then(text)?,
            comment: attributes.find(TABLE_USERDATA).and_then(read_comment),
            owned: flags & TABLE_OWNED != 0,
            dormant: flags & TABLE_DORMANT != 0,
        })
    }
}

impl Chain {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(CHAIN_TABLE, &self.table).text(CHAIN_NAME, &self.name);
        if let Some(base) = &self.base {
            writer.nest(CHAIN_HOOK, |hook| {
                hook.u32(HOOK_NUMBER, base.hook.to_wire()).u32(HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            writer.u32(CHAIN_POLICY, u32::from(!base.drops)).text(CHAIN_KIND, &base.kind);
        }
    }

    pub(super) fn read(family: u8, body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body);
        let base = attributes.find(CHAIN_HOOK).map(|hook| {
            let hook = Attributes::new(hook);
            Some(Base {
                kind: attributes.find(CHAIN_KIND).and_then(text)?,
                hook: Hook::from_wire(hook.find(HOOK_NUMBER).and_then(be32)?),
                priority: hook.find(HOOK_PRIORITY).and_then(be32)?.cast_signed(),
                drops: attributes.find(CHAIN_POLICY).and_then(be32) == Some(0),
            })
        });
        Some(Self {
            family: Family::from_wire(family),
            table: attributes.find(CHAIN_TABLE).and_then(text)?,
            name: attributes.find(CHAIN_NAME).and_then(text)?,
            base: match base {
                Some(read) => Some(read?),
                None => None,
            },
        })
    }
}

impl Rule {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(RULE_TABLE, &self.table).text(RULE_CHAIN, &self.chain);
        if let Some(handle) = self.handle {
            writer.u64(RULE_HANDLE, handle);
        }
        writer.nest(RULE_EXPRESSIONS, |list| {
            for expression in &self.expressions {
                list.nest(LIST_ELEMENT, |writer| expression.write(writer));
            }
        });
        if let Some(comment) = &self.comment {
            write_comment(RULE_USERDATA, comment, writer);
        }
    }

    /// Names the rule without saying what it does: enough to delete it.
    pub(super) fn write_name(&self, writer: &mut Writer) {
        writer.text(RULE_TABLE, &self.table).text(RULE_CHAIN, &self.chain);
        if let Some(handle) = self.handle {
            writer.u64(RULE_HANDLE, handle);
        }
    }

    pub(super) fn read(family: u8, body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body);
        let list = attributes.find(RULE_EXPRESSIONS).unwrap_or_default();
        Some(Self {
            family: Family::from_wire(family),
            table: attributes.find(RULE_TABLE).and_then(text)?,
            chain: attributes.find(RULE_CHAIN).and_then(text)?,
            handle: attributes.find(RULE_HANDLE).and_then(be64),
            expressions: Attributes::new(list).map(|(_, bytes)| Expression::read(bytes)).collect(),
            comment: attributes.find(RULE_USERDATA).and_then(read_comment),
        })
    }
}

impl Set {
    /// Names the set in a message about elements, and none of them, which stands for all.
    pub(super) fn write_flush(&self, writer: &mut Writer) {
        writer.text(ELEMENTS_TABLE, &self.table).text(ELEMENTS_SET, &self.name);
    }

    /// `id` is any number that no other set of the batch has.
    pub(super) fn write(&self, id: u32, writer: &mut Writer) {
        let bit = |is: bool, bit: u32| if is { bit } else { 0 };
        let flags =
            bit(self.ranges, SET_RANGES) | bit(self.value.is_some(), SET_MAP) | bit(!self.parts.is_empty(), SET_PARTS);
        writer.text(SET_TABLE, &self.table).text(SET_NAME, &self.name).u32(SET_FLAGS, flags);
        writer.u32(SET_KEY_KIND, self.key.number()).u32(SET_KEY_LEN, self.key.bytes());
        if let Some(value) = self.value {
            writer.u32(SET_VALUE_KIND, value.number()).u32(SET_VALUE_LEN, value.bytes());
        }
        if !self.parts.is_empty() {
            writer.nest(SET_DESCRIPTION, |writer| {
                writer.nest(DESCRIPTION_PARTS, |list| {
                    for part in &self.parts {
                        list.nest(LIST_ELEMENT, |writer| {
                            writer.u32(PART_LEN, *part);
                        });
                    }
                });
            });
        }
        writer.u32(SET_ID, id);
        if self.key == Kind::INTERFACE {
            // Without being told the order of bytes, nft prints names as empty (`NFTNL_UDATA_SET_KEYBYTEORDER`, host).
            writer.bytes(SET_USERDATA, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
        }
    }

    /// `None` also for a set with properties that this project does not use.
    pub(super) fn read(family: u8, body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body);
        let number = |kind| attributes.find(kind).and_then(be32);
        let flags = number(SET_FLAGS).unwrap_or(0);
        if flags & !(SET_RANGES | SET_MAP | SET_PARTS) != 0 {
            return None;
        }
        let value = match flags & SET_MAP {
            0 => None,
            _ => Some(Kind::of_wire(number(SET_VALUE_KIND)?, number(SET_VALUE_LEN)?)),
        };
        Some(Self {
            family: Family::from_wire(family),
            table: attributes.find(SET_TABLE).and_then(text)?,
            name: attributes.find(SET_NAME).and_then(text)?,
            key: Kind::of_wire(number(SET_KEY_KIND)?, number(SET_KEY_LEN)?),
            value,
            ranges: flags & SET_RANGES != 0,
            parts: attributes.find(SET_DESCRIPTION).map(read_parts).unwrap_or_default(),
        })
    }
}

fn read_parts(description: &[u8]) -> Vec<u32> {
    let list = Attributes::new(description).find(DESCRIPTION_PARTS).unwrap_or_default();
    Attributes::new(list).filter_map(|(_, part)| Attributes::new(part).find(PART_LEN).and_then(be32)).collect()
}

impl Element {
    fn write(&self, writer: &mut Writer) {
        let put = |kind, bytes: &[u8], writer: &mut Writer| {
            writer.nest(kind, |inner| {
                inner.bytes(VALUE, bytes);
            });
        };
        match self {
            Self::Key { key, value } => {
                put(ELEMENT_KEY, key, writer);
                if let Some(value) = value {
                    put(ELEMENT_VALUE, value, writer);
                }
            }
            Self::RangeEnd(key) => {
                writer.u32(ELEMENT_FLAGS, ELEMENT_RANGE_END);
                put(ELEMENT_KEY, key, writer);
            }
            Self::Span { first, last } => {
                put(ELEMENT_KEY, first, writer);
                put(ELEMENT_KEY_END, last, writer);
            }
        }
    }

    /// `None` for an element of a kind that this project does not write.
    fn read(bytes: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(bytes);
        let bytes = |kind| Attributes::new(attributes.find(kind)?).find(VALUE).map(Box::from);
        let key = bytes(ELEMENT_KEY)?;
        let flags = attributes.find(ELEMENT_FLAGS).and_then(be32).unwrap_or(0);
        let value = bytes(ELEMENT_VALUE);
        Some(match (flags, bytes(ELEMENT_KEY_END), attributes.find(ELEMENT_VALUE)) {
            (0, None, None) => Self::Key { key, value: None },
            // One that is there and has no bytes is a verdict.
            (0, None, Some(_)) => Self::Key { key, value: Some(value?) },
            (0, Some(last), None) => Self::Span { first: key, last },
            (ELEMENT_RANGE_END, None, None) => Self::RangeEnd(key),
            _ => return None,
        })
    }
}

/// Writes `elements` of the set, which have to fit one attribute together.
pub(super) fn write_elements(table: &str, set: &str, elements: &[Element], writer: &mut Writer) {
    writer.text(ELEMENTS_TABLE, table).text(ELEMENTS_SET, set);
    writer.nest(ELEMENTS_LIST, |list| {
        for element in elements {
            list.nest(LIST_ELEMENT, |writer| element.write(writer));
        }
    });
}

/// Reads the elements of one message; `None` where one of them is none that this project writes.
pub(super) fn read_elements(body: &[u8]) -> Option<Vec<Element>> {
    let list = Attributes::new(body).find(ELEMENTS_LIST).unwrap_or_default();
    Attributes::new(list).map(|(_, bytes)| Element::read(bytes)).collect()
}

/// Reads the number of a generation.
pub(super) fn read_generation(body: &[u8]) -> Option<u32> {
    Attributes::new(body).find(GENERATION_ID).and_then(be32)
}

/// An event of the ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Port of the socket that caused it.
    pub port: u32,
    /// What it is about.
    pub object: EventObject,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventObject {
    /// A table, chain or rule of this table came, changed or went.
    Structure {
        /// Family of the table.
        family: Family,
        /// Name of the table.
        table: String,
    },
    /// A set of this table, or elements of one, came, changed or went.
    Content {
        /// Family of the table.
        family: Family,
        /// Name of the table.
        table: String,
    },
    /// A batch is over.
    Generation {
        /// Its number.
        number: Option<u32>,
        /// Process that sent it.
        process: Option<u32>,
        /// Name of the program.
        program: Option<String>,
    },
    /// Something else.
    Other,
}

impl Event {
    /// Reads an event.
    #[must_use]
    pub fn read(frame: &Frame<'_>) -> Self {
        let [subsystem, message] = frame.kind.to_be_bytes();
        let attributes = Attributes::new(frame.body());
        // Every object has its table, or if it is one its name, first.
        let table = || attributes.find(TABLE_NAME).and_then(text).unwrap_or_default();
        let family = Family::from_wire(frame.family());
        let object = match message {
            _ if subsystem != SUBSYSTEM_NFTABLES => EventObject::Other,
            message::NEW_TABLE
            | message::DELETE_TABLE
            | message::NEW_CHAIN
            | message::DELETE_CHAIN
            | message::NEW_RULE
            | message::DELETE_RULE => EventObject::Structure { family, table: table() },
            message::NEW_SET | message::DELETE_SET | message::NEW_ELEMENTS | message::DELETE_ELEMENTS => {
                EventObject::Content { family, table: table() }
            }
            message::NEW_GENERATION => EventObject::Generation {
                number: attributes.find(GENERATION_ID).and_then(be32),
                process: attributes.find(GENERATION_PROCESS).and_then(be32),
                program: attributes.find(GENERATION_PROGRAM).and_then(text),
            },
            _ => EventObject::Other,
        };
        Self { port: frame.port, object }
    }
}
