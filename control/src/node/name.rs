//! Names of interfaces: 15 bytes for deployment, instance and service. The algorithm is part of the contract, because the
//! main daemon computes the same names; the hash is SipHash-1-3 with a zero key, whatever the standard library uses.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Longest name Linux takes (`IFNAMSIZ` less the terminator).
const NAME_BYTES_MAX: usize = 15;

/// What every name begins with.
const PREFIX: &str = "zl-";

/// Digits of a hash where there is no room for a suffix.
const DIGITS_ALONE: usize = 12;

/// The name of the interface with these `parts`. Readable where it fits, otherwise hashed: then equal parts give equal
/// names, and different ones differ but for a collision of 36 to 48 bits.
///
/// Nothing is escaped: a short part with a blank or slash gives a name the kernel refuses.
#[must_use]
pub fn interface_name(parts: &[&str], suffix: &str) -> String {
    let tail = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    let readable = format!("{PREFIX}{}{tail}", parts.join("-"));
    if readable.len() <= NAME_BYTES_MAX {
        return readable;
    }
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    for text in parts.iter().chain([&suffix]) {
        hasher.write(text.as_bytes());
        hasher.write(&[0xff]);
    }
    let digits = format!("{:x}", hasher.finish());
    let room = NAME_BYTES_MAX.saturating_sub(PREFIX.len() + tail.len());
    let (room, tail) = if tail.is_empty() || room == 0 { (DIGITS_ALONE, "") } else { (room, tail.as_str()) };
    // A hash with leading zeros has fewer digits than there is room for.
    format!("{PREFIX}{}{tail}", &digits[..room.min(digits.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (parts, suffix, name) in [
            (["prod", "0"].as_slice(), "g", "zl-prod-0-g"),
            (&["prod", "0", "web"], "b", "zl-prod-0-web-b"),
            (&["prod", "0", "shared"], "sh", "zl-2cd15931d-sh"),
            (&["prod", "0", "a-very-long-service-name"], "b", "zl-a7a85745cc-b"),
            (&["zlayer", "12345"], "g", "zl-9eae6e0a9b-g"),
            (&["zlayer", "12345", "web"], "b", "zl-8a3d9b380b-b"),
            (&["zlayer", "12345", "web"], "d", "zl-73f456b5c4-d"),
            (&["", "", "pre"], "b", "zl---pre-b"),
        ] {
            assert_eq!(interface_name(parts, suffix), name);
        }
    }

    #[test]
    fn names_never_outgrow_the_kernel() {
        for suffix in ["", "g", "sh", "elevenbytes", "a-suffix-longer-than-a-name"] {
            for length in 0..40 {
                let name = interface_name(&["d".repeat(length).as_str(), "é"], suffix);
                assert!(name.len() <= NAME_BYTES_MAX && name.starts_with(PREFIX), "{name}");
            }
        }
        assert_eq!(interface_name(&["a-part-that-is-long"], "").len(), PREFIX.len() + DIGITS_ALONE);
    }
}
