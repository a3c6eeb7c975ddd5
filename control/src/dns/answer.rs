//! From the bytes of a query to the bytes of its answer, as far as that takes nobody else. No sockets, no waiting.

use super::Core;
use super::config::DATAGRAM_BYTES_MAX;
use super::lookup::Decision;
use super::records::Entry;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes of the header.
const HEADER_BYTES: usize = 12;

/// The option that our queries to upstreams carry, out of the range for local use (RFC 6891, section 9).
pub(super) const LOOP_OPTION: u16 = 65_310;

/// What is to be done with a query.
pub(super) enum Outcome {
    /// Nothing; it deserves none.
    Silence,
    /// The answer is in the buffer.
    Answer,
    /// An upstream knows.
    Forward(Box<Asked>),
}

/// How a query came.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Who asks.
    pub(super) client: IpAddr,
    /// The address asked.
    pub(super) server: IpAddr,
    /// Over TCP.
    pub(super) stream: bool,
}

/// A query that is waiting for its answer.
pub(super) struct Asked {
    /// With the name as the client wrote it, for clients check that (draft-vixie-dnsext-dns0x20).
    pub(super) query: Query,
    /// Whether DNSSEC records are wanted.
    pub(super) dnssec_ok: bool,
    pub(super) header: Metadata,
    has_edns: bool,
    bytes_max: u16,
}

impl Asked {
    /// The answer in the buffer, cut down to what fits.
    pub(super) fn finish(&self, mut message: Message, out: &mut Vec<u8>) {
        message.queries.push(self.query.clone());
        if self.has_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX).set_dnssec_ok(self.dnssec_ok);
            message.edns = Some(edns);
        }
        if !emit(&message, out) || out.len() > usize::from(self.bytes_max) {
            emit(&message.truncate(), out);
        }
    }

    pub(super) fn begin(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.header.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.header);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message
    }
}

fn emit(message: &Message, out: &mut Vec<u8>) -> bool {
    out.clear();
    message.emit(&mut BinEncoder::new(out)).is_ok()
}

impl Core {
    /// Answers `packet` into `out`, or says who else is to.
    pub(super) fn answer(&self, packet: &[u8], way: Way, out: &mut Vec<u8>) -> Outcome {
        let counters = &self.counters;
        counters.queries.fetch_add(1, Ordering::Relaxed);
        // A response, or no DNS at all: to answer that would be the beginning of a loop.
        let [high, low, flags, _, count_high, count_low, ..] = *packet else { return Outcome::Silence };
        if packet.len() < HEADER_BYTES || flags & 0x80 != 0 {
            counters.malformed.fetch_add(1, Ordering::Relaxed);
            return Outcome::Silence;
        }
        let id = u16::from_be_bytes([high, low]);
        if !self.clients.allow(way.client) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            if !self.clients.may_refuse(Instant::now()) {
                return Outcome::Silence;
            }
            return error(id, OpCode::Query, ResponseCode::Refused, out);
        }
        let op_code = OpCode::from_u8(flags >> 3 & 0xf);
        if op_code != OpCode::Query {
            return error(id, op_code, ResponseCode::NotImp, out);
        }
        let sole = u16::from_be_bytes([count_high, count_low]) == 1;
        let message = sole.then(|| Message::from_vec(packet).ok()).flatten();
        let Some(mut message) = message.filter(|message| message.metadata.message_type == MessageType::Query) else {
            counters.malformed.fetch_add(1, Ordering::Relaxed);
            return error(id, op_code, ResponseCode::FormErr, out);
        };
        let Some(query) = message.queries.pop() else { return Outcome::Silence };
        let edns = message.edns.as_ref();
        let payload = edns.map_or(512, |edns| edns.max_payload().clamp(512, DATAGRAM_BYTES_MAX));
        let asked = Asked {
            query,
            dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
            header: message.metadata,
            has_edns: edns.is_some(),
            bytes_max: if way.stream { u16::MAX } else { payload },
        };
        if edns.is_some_and(|edns| edns.version() > 0) {
            asked.finish(asked.begin(ResponseCode::BADVERS), out);
            return Outcome::Answer;
        }
        let refused = matches!(asked.query.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::OPT)
            || asked.query.query_class() != DNSClass::IN;
        if refused {
            asked.finish(asked.begin(ResponseCode::Refused), out);
            return Outcome::Answer;
        }
        let name = asked.query.name();
        let decision = self.rules.decide(&self.records, &self.clients, name, asked.query.query_type(), way.client);
        if let Decision::Elsewhere = decision {
            if edns.is_some_and(|edns| self.forwarder.sent(edns)) {
                counters.looped.fetch_add(1, Ordering::Relaxed);
                self.forwarder.note_loop();
                asked.finish(asked.begin(ResponseCode::ServFail), out);
                return Outcome::Answer;
            }
            if !asked.header.recursion_desired {
                asked.finish(asked.begin(ResponseCode::Refused), out);
                return Outcome::Answer;
            }
            return match self.forwarder.remembered(&asked) {
                Some(message) => {
                    counters.cached.fetch_add(1, Ordering::Relaxed);
                    asked.finish(message, out);
                    Outcome::Answer
                }
                None => Outcome::Forward(Box::new(asked)),
            };
        }
        counters.own.fetch_add(1, Ordering::Relaxed);
        asked.finish(self.known(&asked, decision, way.server), out);
        Outcome::Answer
    }

    /// The answer out of our own records.
    fn known(&self, asked: &Asked, decision: Decision, server: IpAddr) -> Message {
        let (name, kind) = (asked.query.name(), asked.query.query_type());
        let mut message = asked.begin(ResponseCode::NoError);
        message.metadata.authoritative = true;
        let record = |data| Record::from_rdata(name.clone(), self.ttl_secs, data);
        let mut unknown = false;
        let zone = match decision {
            Decision::Held(entry, zone) => {
                self.of_entry(&entry, name, kind, &mut message);
                zone
            }
            Decision::Reverse(names, zone) => {
                if matches!(kind, RecordType::PTR | RecordType::ANY) {
                    message.answers.extend(names.iter().map(|name| record(RData::PTR(PTR(name.clone())))));
                }
                zone
            }
            Decision::Apex(zone) => zone,
            Decision::Server(zone) => {
                let asks = if server.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                message.answers.extend((kind == asks).then(|| record(address(server))));
                zone
            }
            Decision::Bare(zone) => zone,
            Decision::Unknown(zone) => {
                unknown = true;
                zone
            }
            Decision::Elsewhere => return asked.begin(ResponseCode::ServFail),
        };
        if zone == *name && !unknown {
            match kind {
                RecordType::SOA => message.answers.push(self.soa(&zone)),
                RecordType::NS => message.answers.push(record(RData::NS(NS(server_of(&zone))))),
                _ => {}
            }
        }
        if message.answers.is_empty() {
            // How long that may be remembered (RFC 2308, section 3).
            message.authorities.push(self.soa(&zone));
            message.metadata.response_code = if unknown { ResponseCode::NXDomain } else { ResponseCode::NoError };
        }
        message
    }

    /// What a name has of the type asked for; of all types the first there is (RFC 8482, section 4.1).
    fn of_entry(&self, entry: &Entry, name: &Name, kind: RecordType, message: &mut Message) {
        let record = |data| Record::from_rdata(name.clone(), self.ttl_secs, data);
        let all = kind == RecordType::ANY;
        if matches!(kind, RecordType::A | RecordType::AAAA) || all {
            let of_kind = |ip: &&IpAddr| all || ip.is_ipv4() == (kind == RecordType::A);
            message.answers.extend(entry.addresses.iter().filter(of_kind).map(|ip| record(address(*ip))));
            if message.answers.len() > 1 {
                // Clients take the first: each has its turn.
                let turn = self.counters.turns.fetch_add(1, Ordering::Relaxed);
                let by = turn as usize % message.answers.len();
                message.answers.rotate_left(by);
            }
        }
        if kind == RecordType::SRV || all {
            message.answers.extend(entry.services.iter().map(|service| record(RData::SRV(service.clone()))));
            for service in &entry.services {
                let key = super::name::NameKey::of(&service.target);
                let addresses = self.records.find(&key).map(|entry| entry.addresses.clone()).unwrap_or_default();
                let record = |ip| Record::from_rdata(service.target.clone(), self.ttl_secs, address(ip));
                message.additionals.extend(addresses.into_iter().map(record));
            }
        }
        if kind == RecordType::TXT || all {
            message.answers.extend(entry.texts.iter().map(|text| record(RData::TXT(text.clone()))));
        }
    }

    fn soa(&self, zone: &Name) -> Record {
        let mailbox = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
        // For secondaries, of which there are none: the times that RIPE-203 recommends.
        let (refresh, retry, expire) = (86_400, 7_200, 3_600_000);
        let negative = self.negative_ttl_secs;
        let soa = SOA::new(server_of(zone), mailbox, self.records.serial(), refresh, retry, expire, negative);
        Record::from_rdata(zone.clone(), negative, RData::SOA(soa))
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

/// The name of the server of a zone.
fn server_of(zone: &Name) -> Name {
    zone.prepend_label("ns").unwrap_or_else(|_| zone.clone())
}

/// An answer to what was not understood: no more than a header.
fn error(id: u16, op_code: OpCode, code: ResponseCode, out: &mut Vec<u8>) -> Outcome {
    emit(&Message::error_msg(id, op_code, code), out);
    Outcome::Answer
}
