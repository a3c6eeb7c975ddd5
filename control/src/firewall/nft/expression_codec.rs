//! Expressions on the wire: a name and attributes of its own each.

use super::expression::{ConntrackKey, Expression, FibResult, Header, MetaKey, Register, Verdict};
use super::object::Family;
use crate::firewall::netfilter::{Attributes, Writer, be32, be64, text};

/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const CODE: u16 = 1;
const CHAIN: u16 = 2;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = (-3i32).cast_unsigned();
const NFT_GOTO: u32 = (-4i32).cast_unsigned();
const NFT_RETURN: u32 = (-5i32).cast_unsigned();

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;

/// `NFT_BYTEORDER_HTON`.
const HOST_TO_NETWORK: u32 = 1;

/// `NFT_RT_TCPMSS`.
const TCP_MSS: u32 = 3;

/// `NFT_EXTHDR_OP_TCPOPT`.
const TCP_OPTION: u32 = 1;

/// `NFT_NAT_DNAT`.
const DNAT: u32 = 1;

/// `NFTA_FIB_F_…`.
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_THROUGH_IN: u32 = 8;
const FIB_PRESENT: u32 = 32;

/// Of the result: `NFT_FIB_RESULT_…`.
const FIB_OIF: u32 = 1;
const FIB_ADDRTYPE: u32 = 3;

const META_KEYS: [(MetaKey, u32); 6] = [
    (MetaKey::Protocol, 1),
    (MetaKey::Mark, 3),
    (MetaKey::InName, 6),
    (MetaKey::OutName, 7),
    (MetaKey::NetworkFamily, 15),
    (MetaKey::TransportProtocol, 16),
];

const HEADERS: [(Header, u32); 3] = [(Header::Link, 0), (Header::Network, 1), (Header::Transport, 2)];

const CONNTRACK_KEYS: [(ConntrackKey, u32); 2] = [(ConntrackKey::State, 0), (ConntrackKey::Status, 2)];

fn to_wire<T: PartialEq>(table: &[(T, u32)], value: &T) -> u32 {
    table.iter().find(|(known, _)| known == value).map_or(0, |(_, wire)| *wire)
}

fn from_wire<T: Copy>(table: &[(T, u32)], wire: u32) -> Option<T> {
    table.iter().find(|(_, known)| *known == wire).map(|(value, _)| *value)
}

impl Expression {
    /// Writes it as one element of a list of expressions.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(NAME, self.name());
        writer.nest(DATA, |data| self.write_data(data));
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::ToNetworkOrder { .. } => "byteorder",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Conntrack { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::RouteSegment { .. } => "rt",
            Self::WriteTcpOption { .. } => "exthdr",
            Self::Counter { .. } => "counter",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::XtMatch { .. } => "match",
            Self::XtTarget { .. } => "target",
            Self::Other(name) => name,
        }
    }

    fn write_data(&self, data: &mut Writer) {
        match self {
            Self::Meta { key, into } => {
                data.u32(1, into.to_wire()).u32(2, to_wire(&META_KEYS, key));
            }
            Self::SetMeta { key, from } => {
                data.u32(2, to_wire(&META_KEYS, key)).u32(3, from.to_wire());
            }
            Self::Payload { header, offset, len, into } => {
                data.u32(1, into.to_wire()).u32(2, to_wire(&HEADERS, header)).u32(3, *offset).u32(4, *len);
            }
            Self::Compare { from, equal, value } => {
                data.u32(1, from.to_wire()).u32(2, if *equal { EQUAL } else { UNEQUAL });
                data.nest(3, |inner| {
                    inner.bytes(VALUE, value);
                });
            }
            Self::Bitwise { from, into, mask, xor } => {
                // A mask is a few bytes long.
                let len = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                data.u32(1, from.to_wire()).u32(2, into.to_wire()).u32(3, len);
                data.nest(4, |inner| {
                    inner.bytes(VALUE, mask);
                });
                data.nest(5, |inner| {
                    inner.bytes(VALUE, xor);
                });
            }
            Self::ToNetworkOrder { from, into, len } => {
                data.u32(1, from.to_wire()).u32(2, into.to_wire()).u32(3, HOST_TO_NETWORK).u32(4, *len).u32(5, *len);
            }
            Self::Immediate { into, value } => {
                data.u32(1, into.to_wire());
                data.nest(2, |inner| {
                    inner.bytes(VALUE, value);
                });
            }
            Self::Lookup { set, from, into, inverted } => {
                data.text(1, set).u32(2, from.to_wire());
                if let Some(into) = into {
                    data.u32(3, into.to_wire());
                }
                if *inverted {
                    data.u32(5, INVERTED);
                }
            }
            Self::Verdict(verdict) => {
                data.u32(1, VERDICT_REGISTER);
                data.nest(2, |inner| {
                    inner.nest(VERDICT, |inner| write_verdict(verdict, inner));
                });
            }
            Self::Conntrack { key, into } => {
                data.u32(1, into.to_wire()).u32(2, to_wire(&CONNTRACK_KEYS, key));
            }
            Self::Fib { source, through_in, result, into } => {
                let (result, present) = match result {
                    FibResult::Present => (FIB_OIF, FIB_PRESENT),
                    FibResult::AddressType => (FIB_ADDRTYPE, 0),
                };
                let of = if *source { FIB_SOURCE } else { FIB_DESTINATION };
                let through = if *through_in { FIB_THROUGH_IN } else { 0 };
                data.u32(1, into.to_wire()).u32(2, result).u32(3, of | through | present);
            }
            Self::RouteSegment { into } => {
                data.u32(1, into.to_wire()).u32(2, TCP_MSS);
            }
            Self::WriteTcpOption { kind, offset, len, from } => {
                data.u8(2, *kind).u32(3, *offset).u32(4, *len).u32(6, TCP_OPTION).u32(7, from.to_wire());
            }
            Self::Counter { packets, bytes } => {
                data.u64(1, *bytes).u64(2, *packets);
            }
            Self::DestinationNat { family, address, port } => {
                data.u32(1, DNAT).u32(2, family.to_wire().into()).u32(3, address.to_wire()).u32(5, port.to_wire());
            }
            Self::XtMatch { name, revision, info } => {
                data.text(1, name).u32(2, *revision).bytes(3, info);
            }
            Self::XtTarget { name } => {
                data.text(1, name);
            }
            Self::Masquerade | Self::Other(_) => {}
        }
    }

    /// Reads one element of a list of expressions.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let attributes = Attributes::new(bytes);
        let name = attributes.find(NAME).and_then(text).unwrap_or_default();
        let data = attributes.find(DATA).unwrap_or_default();
        Self::read_data(&name, Data(Attributes::new(data))).unwrap_or(Self::Other(name))
    }

    fn read_data(name: &str, data: Data<'_>) -> Option<Self> {
        Some(match name {
            "meta" => {
                let key = from_wire(&META_KEYS, data.number(2)?)?;
                match data.register(3) {
                    Some(from) => Self::SetMeta { key, from },
                    None => Self::Meta { key, into: data.register(1)? },
                }
            }
            // One that writes to the packet has its source in attribute 5.
            "payload" if data.0.find(5).is_none() => Self::Payload {
                into: data.register(1)?,
                header: from_wire(&HEADERS, data.number(2)?)?,
                offset: data.number(3)?,
                len: data.number(4)?,
            },
            "cmp" => {
                let equal = match data.number(2)? {
                    EQUAL => true,
                    UNEQUAL => false,
                    _ => return None,
                };
                Self::Compare { from: data.register(1)?, equal, value: data.value(3)? }
            }
            // Attribute 6 is the operation, of which only 0, mask and xor, is read here.
            "bitwise" if data.number(6).unwrap_or(0) == 0 => Self::Bitwise {
                from: data.register(1)?,
                into: data.register(2)?,
                mask: data.value(4)?,
                xor: data.value(5)?,
            },
            "byteorder" if data.number(3)? == HOST_TO_NETWORK && data.number(4) == data.number(5) => {
                Self::ToNetworkOrder { from: data.register(1)?, into: data.register(2)?, len: data.number(4)? }
            }
            "lookup" => Self::Lookup {
                set: data.0.find(1).and_then(text)?,
                from: data.register(2)?,
                into: data.register(3),
                inverted: data.number(5).unwrap_or(0) & INVERTED != 0,
            },
            "immediate" if data.number(1)? == VERDICT_REGISTER => Self::Verdict(data.verdict(2)?),
            "immediate" => Self::Immediate { into: data.register(1)?, value: data.value(2)? },
            "ct" if data.0.find(3).is_none() => {
                Self::Conntrack { key: from_wire(&CONNTRACK_KEYS, data.number(2)?)?, into: data.register(1)? }
            }
            "fib" => data.fib()?,
            "rt" if data.number(2)? == TCP_MSS => Self::RouteSegment { into: data.register(1)? },
            "exthdr" if data.number(6) == Some(TCP_OPTION) => Self::WriteTcpOption {
                kind: *data.0.find(2)?.first()?,
                offset: data.number(3)?,
                len: data.number(4)?,
                from: data.register(7)?,
            },
            "counter" => {
                let count = |kind| data.0.find(kind).and_then(be64).unwrap_or(0);
                Self::Counter { bytes: count(1), packets: count(2) }
            }
            "nat" if data.is_single_target() => Self::DestinationNat {
                family: Family::from_wire(u8::try_from(data.number(2)?).ok()?),
                address: data.register(3)?,
                port: data.register(5)?,
            },
            "masq" if [1, 2, 3].iter().all(|kind| data.0.find(*kind).is_none()) => Self::Masquerade,
            "match" => Self::XtMatch {
                name: data.0.find(1).and_then(text)?,
                revision: data.number(2)?,
                info: data.0.find(3)?.to_vec(),
            },
            "target" => Self::XtTarget { name: data.0.find(1).and_then(text)? },
            _ => return None,
        })
    }
}

fn write_verdict(verdict: &Verdict, writer: &mut Writer) {
    let (code, chain) = match verdict {
        Verdict::Drop => (NF_DROP, None),
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        Verdict::Return => (NFT_RETURN, None),
    };
    writer.u32(CODE, code);
    if let Some(chain) = chain {
        writer.text(CHAIN, chain);
    }
}

/// The attributes of one expression.
#[derive(Clone, Copy)]
struct Data<'a>(Attributes<'a>);

impl Data<'_> {
    fn number(self, kind: u16) -> Option<u32> {
        self.0.find(kind).and_then(be32)
    }

    fn register(self, kind: u16) -> Option<Register> {
        self.number(kind).and_then(Register::from_wire)
    }

    fn value(self, kind: u16) -> Option<Vec<u8>> {
        Attributes::new(self.0.find(kind)?).find(VALUE).map(<[u8]>::to_vec)
    }

    /// `None` for a verdict that this project does not give.
    fn verdict(self, kind: u16) -> Option<Verdict> {
        let verdict = Attributes::new(Attributes::new(self.0.find(kind)?).find(VERDICT)?);
        let chain = || verdict.find(CHAIN).and_then(text);
        Some(match verdict.find(CODE).and_then(be32)? {
            NF_DROP => Verdict::Drop,
            NF_ACCEPT => Verdict::Accept,
            NFT_JUMP => Verdict::Jump(chain()?),
            NFT_GOTO => Verdict::Goto(chain()?),
            NFT_RETURN => Verdict::Return,
            _ => return None,
        })
    }

    fn fib(self) -> Option<Expression> {
        let flags = self.number(3)?;
        let (result, present) = match self.number(2)? {
            FIB_OIF if flags & FIB_PRESENT != 0 => (FibResult::Present, FIB_PRESENT),
            FIB_ADDRTYPE => (FibResult::AddressType, 0),
            _ => return None,
        };
        let source = flags & FIB_SOURCE != 0;
        let of = if source { FIB_SOURCE } else { FIB_DESTINATION };
        let through_in = flags & FIB_THROUGH_IN != 0;
        let understood = of | present | if through_in { FIB_THROUGH_IN } else { 0 };
        (flags == understood).then_some(Expression::Fib { source, through_in, result, into: self.register(1)? })
    }

    /// A translation to one address and one port: the kernel tells those again as the upper ends of ranges.
    fn is_single_target(self) -> bool {
        let same = |low, high| self.number(high).is_none() || self.number(high) == self.number(low);
        self.number(1) == Some(DNAT) && same(3, 4) && same(5, 6)
    }
}
