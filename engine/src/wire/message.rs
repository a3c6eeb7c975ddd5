//! The four WireGuard messages, as far as they can be told apart without keys (paper, section 5.4).
//!
//! ```text
//! 1 initiation  type 0 0 0 | sender   | …                                   148 bytes
//! 2 response    type 0 0 0 | sender   | receiver | …                         92 bytes
//! 3 cookie      type 0 0 0 | receiver | …                                    64 bytes
//! 4 data        type 0 0 0 | receiver | counter (8) | sealed packet | tag    32 bytes and more
//! ```

/// Length of a handshake initiation.
pub const INITIATION_BYTES: usize = 148;
/// Length of a handshake response.
pub const RESPONSE_BYTES: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_BYTES: usize = 64;
/// What a data message adds to the packet it carries: header and tag.
pub const DATA_OVERHEAD: usize = 32;
/// Length of the header of a data message.
pub const DATA_HEADER_BYTES: usize = 16;
/// From this counter on a session takes no more messages (paper, section 6.1: 2^64 − 2^13 − 1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A datagram of the WireGuard socket by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a session.
    Initiation,
    /// Grants one.
    Response {
        /// Our index of the handshake.
        receiver: u32,
    },
    /// Asks to prove the address.
    Cookie {
        /// Our index of the handshake.
        receiver: u32,
    },
    /// Carries a packet.
    Data {
        /// Our index of the session.
        receiver: u32,
        /// Its number.
        counter: u64,
    },
    /// A WireGuard type with an impossible length.
    Malformed,
    /// Not WireGuard.
    Foreign,
}

impl Message {
    /// Tells what `datagram` is.
    #[must_use]
    pub fn classify(datagram: &[u8]) -> Self {
        let Some(kind) = datagram.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind)) else {
            return Self::Foreign;
        };
        match (kind, datagram.len()) {
            (1, INITIATION_BYTES) => Self::Initiation,
            (2, RESPONSE_BYTES) => Self::Response { receiver: index_at(datagram, 8) },
            (3, COOKIE_BYTES) => Self::Cookie { receiver: index_at(datagram, 4) },
            (4, DATA_OVERHEAD..) => Self::Data { receiver: index_at(datagram, 4), counter: counter(datagram) },
            (1..=4, _) => Self::Malformed,
            _ => Self::Foreign,
        }
    }
}

fn index_at(datagram: &[u8], at: usize) -> u32 {
    datagram.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |index| u32::from_le_bytes(*index))
}

fn counter(datagram: &[u8]) -> u64 {
    datagram.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |counter| u64::from_le_bytes(*counter))
}

/// Bytes of each message of a train whose making is not known: from the first data message to the next of its session.
/// The length of the train where there is no next.
#[must_use]
pub fn stride(train: &[u8]) -> usize {
    let Message::Data { receiver, counter } = Message::classify(train) else { return train.len() };
    let next = Message::Data { receiver, counter: counter.wrapping_add(1) };
    let starts = DATA_OVERHEAD..train.len().saturating_sub(DATA_OVERHEAD - 1);
    // The first byte rules nearly every place out.
    starts.into_iter().find(|&at| train[at] == 4 && Message::classify(&train[at..]) == next).unwrap_or(train.len())
}

/// Bytes of a packet after padding: the next multiple of 16, but not above the MTU (paper, section 5.4.6; the Linux
/// module clamps in the same way, so that a packet of MTU size is sent as it is).
#[must_use]
pub fn padded(packet_bytes: usize, mtu: usize) -> usize {
    packet_bytes.next_multiple_of(16).min(mtu.max(packet_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn messages_are_told_by_type_and_length() {
        assert_eq!(Message::classify(&datagram(1, 148)), Message::Initiation);
        assert_eq!(Message::classify(&datagram(2, 92)), Message::Response { receiver: 0x0b0a_0908 });
        assert_eq!(Message::classify(&datagram(3, 64)), Message::Cookie { receiver: 0x0706_0504 });
        let data = Message::Data { receiver: 0x0706_0504, counter: 0x0f0e_0d0c_0b0a_0908 };
        assert_eq!(Message::classify(&datagram(4, 32)), data);
        assert_eq!(Message::classify(&datagram(4, 31)), Message::Malformed);
        assert_eq!(Message::classify(&datagram(1, 149)), Message::Malformed);
        assert_eq!(Message::classify(&datagram(0x0101, 148)), Message::Foreign);
        assert_eq!(Message::classify(&datagram(5, 100)), Message::Foreign);
        assert_eq!(Message::classify(&[1, 0, 0]), Message::Foreign);
    }

    #[test]
    fn the_messages_of_a_train_are_found_without_being_told_their_length() {
        for bytes in [32, 33, 96, 1452] {
            let mut train = Vec::new();
            for counter in 0xff_u64..0x103 {
                let mut message = datagram(4, bytes);
                message[8..16].copy_from_slice(&counter.to_le_bytes());
                train.extend(message);
            }
            assert_eq!(stride(&train), bytes);
            assert_eq!(stride(&train[..train.len() - 1]), bytes, "the last one is shorter");
            assert_eq!(stride(&train[..bytes]), bytes, "one alone");
            assert_eq!(stride(&train[..2 * bytes]), bytes);
            train[bytes + 8] ^= 1;
            assert_eq!(stride(&train), train.len(), "what follows is not the next message");
        }
        assert_eq!(stride(&datagram(1, 148)), 148);
        assert_eq!(stride(&[4, 0, 0]), 3);
        assert_eq!(stride(&[]), 0);
    }

    #[test]
    fn padding_stays_within_the_mtu() {
        assert_eq!(padded(0, 1420), 0);
        assert_eq!(padded(84, 1420), 96);
        assert_eq!(padded(1400, 1420), 1408);
        assert_eq!(padded(1409, 1420), 1420);
        assert_eq!(padded(1420, 1420), 1420);
        assert_eq!(padded(1500, 1420), 1500);
    }
}
