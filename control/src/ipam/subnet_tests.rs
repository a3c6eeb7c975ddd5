//! The registry against the published vectors and a naive twin.

use super::subnets::{SubnetError, SubnetRegistry};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn registry(cluster: &str) -> SubnetRegistry {
    SubnetRegistry::new(net(cluster), Vec::new())
}

#[test]
fn published_vectors() {
    let shared = "__zlayer_shared_bridge__";
    for (service, node, subnet) in [
        ("web", 0, "10.200.187.128/26"),
        ("db", 0, "10.200.243.0/26"),
        ("pay", 0, "10.200.141.128/26"),
        (shared, 0, "10.200.90.64/26"),
        ("web", 7, "10.200.1.192/26"),
        ("web", 1, "10.200.40.64/26"),
        ("b", 1, "10.200.3.64/26"),
    ] {
        assert_eq!(registry("10.200.0.0/16").assign(service, node, |_| true), Ok(net(subnet)), "{service} {node}");
    }
    let v6 = registry("fd00:200::/48").assign("web", 1, |_| true);
    assert_eq!(v6, Ok(net("fd00:200:0:66:acce:2e09:8fe4:a100/120")));
}

#[test]
fn the_same_again_until_it_is_given_back() {
    let mut registry = registry("10.200.0.0/16");
    let subnet = registry.assign("web", 0, |_| true).unwrap();
    assert_eq!(registry.assign("web", 0, |_| false), Ok(subnet));
    assert_eq!(registry.release("web", 0), Some(subnet));
    assert_eq!(registry.release("web", 0), None);
    assert_ne!(registry.assign("web", 0, |free| free != subnet).unwrap(), subnet);
}

#[test]
fn what_is_reserved_or_of_another_cluster_is_passed_over() {
    let reserved = ["10.200.187.128/28", "10.200.187.224/32"].map(net).into();
    let mut registry = SubnetRegistry::new(net("10.200.0.0/16"), reserved);
    registry.restore("old", 0, net("10.200.188.0/24"));
    assert_eq!(registry.assign("web", 0, |_| true), Ok(net("10.200.189.0/26")));
    registry.move_to(net("10.50.0.0/16"), Vec::new());
    assert_eq!(registry.assign("web", 0, |_| true), Ok(net("10.200.189.0/26")), "it stays");
    assert_eq!(registry.assign("db", 0, |_| true), Ok(net("10.50.243.0/26")));
}

#[test]
fn clusters_that_are_too_small_or_full() {
    for (cluster, subnet) in [("10.0.0.0/26", 26), ("10.0.0.0/30", 26), ("fd00::/120", 120), ("fd00::/128", 120)] {
        let error = registry(cluster).assign("a", 0, |_| true);
        assert_eq!(error, Err(SubnetError::ClusterTooSmall { cluster: net(cluster), subnet }));
    }
    let mut registry = registry("10.0.0.0/24");
    let mut seen: Vec<_> = ["a", "b", "c", "d"].map(|service| registry.assign(service, 0, |_| true).unwrap()).into();
    seen.sort();
    assert_eq!(seen, ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"].map(net));
    assert_eq!(registry.assign("e", 0, |_| true), Err(SubnetError::Full(net("10.0.0.0/24"))));
}

proptest! {
    /// The twin is the text of the algorithm: a list of slots, looked through from the hashed one on.
    #[test]
    fn as_the_text_says(steps in prop::collection::vec((0..40_u8, 0..3_u64, prop::bool::weighted(0.7)), 1..200)) {
        let reserved = net("10.0.0.64/28");
        let mut registry = SubnetRegistry::new(net("10.0.0.0/22"), vec![reserved]);
        let slots: Vec<IpNet> = net("10.0.0.0/22").subnets(26).unwrap().collect();
        let mut twin: BTreeMap<(String, u64), IpNet> = BTreeMap::new();
        for (service, node, assign) in steps {
            let key = (format!("s{service}"), node);
            if !assign {
                prop_assert_eq!(registry.release(&key.0, node), twin.remove(&key));
                continue;
            }
            let hash = format!("{}\u{1f}{node}", key.0).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            let start = usize::try_from(hash % 16).unwrap();
            let expected = twin.get(&key).copied().or_else(|| {
                let order = slots[start..].iter().chain(&slots[..start]);
                order.copied().find(|slot| !slot.contains(&reserved) && !twin.values().any(|taken| taken == slot))
            });
            prop_assert_eq!(registry.assign(&key.0, node, |_| true).ok(), expected);
            twin.extend(expected.map(|subnet| (key, subnet)));
            prop_assert_eq!(registry.iter().count(), twin.len());
        }
    }
}
