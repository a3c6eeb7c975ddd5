//! Addresses of a prefix as numbers: 0 is its base.

use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The number of `ip` in `prefix`, if it is in it.
pub(super) fn offset(prefix: IpNet, ip: IpAddr) -> Option<u128> {
    prefix.contains(&ip).then(|| number(ip) - number(prefix.network()))
}

/// The address with this number. It must be in the prefix.
pub(super) fn address(prefix: IpNet, offset: u128) -> IpAddr {
    match prefix.network() {
        // The sum is inside the prefix, so it fits.
        IpAddr::V4(base) => IpAddr::V4((u32::from(base).wrapping_add(offset as u32)).into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).wrapping_add(offset).into()),
    }
}

/// The last number in `prefix`.
pub(super) fn last(prefix: IpNet) -> u128 {
    let host_bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1)
}

/// The numbers a host may have. Left out are the base, which names the prefix (and is the anycast address of routers in
/// IPv6: RFC 4291, section 2.6.1), and the IPv4 broadcast address; prefixes of two addresses (RFC 3021, RFC 6164) and of
/// one have neither.
pub(super) fn usable(prefix: IpNet) -> RangeInclusive<u128> {
    let last = last(prefix);
    match prefix {
        _ if last < 2 => 0..=last,
        IpNet::V4(_) => 1..=last - 1,
        IpNet::V6(_) => 1..=last,
    }
}

/// The address behind the base: that of the node in its slice, and of the gateway in a subnet. A prefix of one address
/// has none.
pub(crate) fn first_behind_base(prefix: IpNet) -> Option<IpAddr> {
    (last(prefix) > 0).then(|| address(prefix, 1))
}

/// The numbers that `inner` has in `outer`, where they overlap.
pub(super) fn overlap(outer: IpNet, inner: IpNet) -> Option<RangeInclusive<u128>> {
    if outer.contains(&inner) {
        let first = offset(outer, inner.network())?;
        Some(first..=first + last(inner))
    } else {
        inner.contains(&outer).then(|| 0..=last(outer))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_and_addresses() {
        for (prefix, number, ip) in [
            ("10.200.5.0/28", 1, "10.200.5.1"),
            ("0.0.0.0/0", u128::from(u32::MAX), "255.255.255.255"),
            ("fd00::/64", 1 << 63, "fd00::8000:0:0:0"),
            ("::/0", u128::MAX, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(address(net(prefix), number).to_string(), ip);
            assert_eq!(offset(net(prefix), ip.parse().unwrap()), Some(number));
        }
        assert_eq!(offset(net("10.0.0.0/8"), "11.0.0.0".parse().unwrap()), None);
        assert_eq!(offset(net("10.0.0.0/8"), "::".parse().unwrap()), None);
    }

    #[test]
    fn the_address_behind_the_base() {
        for (prefix, ip) in [
            ("10.200.5.0/28", Some("10.200.5.1")),
            ("10.9.9.8/31", Some("10.9.9.9")),
            ("10.9.9.8/32", None),
            ("fd00::/64", Some("fd00::1")),
        ] {
            assert_eq!(first_behind_base(net(prefix)), ip.map(|ip: &str| ip.parse().unwrap()));
        }
    }

    #[test]
    fn what_a_host_may_have() {
        for (prefix, first, last) in [
            ("10.0.0.0/24", 1, 254),
            ("10.0.0.0/30", 1, 2),
            ("10.0.0.0/31", 0, 1),
            ("10.0.0.0/32", 0, 0),
            ("fd00::/120", 1, 255),
            ("fd00::/127", 0, 1),
            ("fd00::/128", 0, 0),
            ("::/0", 1, u128::MAX),
        ] {
            assert_eq!(usable(net(prefix)), first..=last, "{prefix}");
        }
    }

    #[test]
    fn overlaps() {
        for (outer, inner, range) in [
            ("10.0.0.0/16", "10.0.1.0/24", Some(256..=511)),
            ("10.0.1.0/24", "10.0.0.0/16", Some(0..=255)),
            ("10.0.1.0/24", "10.0.2.0/24", None),
            ("10.0.1.0/24", "::/0", None),
        ] {
            assert_eq!(overlap(net(outer), net(inner)), range);
        }
    }
}
