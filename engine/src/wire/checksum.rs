//! The Internet checksum (RFC 1071) as sums that can be added up in parts.
//!
//! Sums are kept in native byte order, which RFC 1071 section 2(B) allows: a sum of swapped words is the swapped sum. A
//! part must start at an even offset of what is summed; only the last part may have an odd length.

/// Adds `bytes` to nothing. Widening 32-bit words into 64-bit lanes lets the compiler use whole vectors, and cannot
/// overflow below 16 GiB.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    let tail: u64 = pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum();
    let last = odd.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    lanes.iter().sum::<u64>() + tail + last
}

/// The sum of one 16-bit number in wire order.
#[must_use]
pub fn sum_u16(value: u16) -> u64 {
    u64::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// Folds a sum to 16 bits, still in native order.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX)
}

/// The checksum field for `sum`: complemented, as bytes in wire order.
#[must_use]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// As [`finish`], with UDP's rule that a computed zero is sent as all ones (RFC 768).
#[must_use]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        field => field,
    }
}

/// The pseudo-header sum of IPv4 or IPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1): the address bytes, both of them
/// side by side, the protocol and the transport length.
#[must_use]
pub fn pseudo(addresses: &[u8], protocol: u8, transport_bytes: usize) -> u64 {
    let len = u32::try_from(transport_bytes).unwrap_or(u32::MAX).to_be_bytes();
    sum(addresses) + sum(&len) + sum_u16(u16::from(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&bytes)), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn zero_is_all_ones_for_udp() {
        assert_eq!(finish(sum(&[0xff, 0xff])), [0, 0]);
        assert_eq!(finish_udp(sum(&[0xff, 0xff])), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_twin(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(u16::from_be_bytes(finish(sum(&bytes))), naive(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (front, back) = bytes.split_at(cut);
            prop_assert_eq!(finish(sum(front) + sum(back)), finish(sum(&bytes)));
        }
    }
}
