//! Which subnet of the cluster a service has on a node, by an algorithm that is published, so that two versions agree.
//!
//! The cluster is cut into slots of one size, /26 or /120. The hash of service and node names the slot to try first, the
//! next ones follow. Slots that overlap something reserved are passed over: the node's own address, its slice.
//!
//! What others take is not known here: nodes do not agree among each other on their slots, and two may choose the same.

use super::hosts;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};

/// Length of the prefix of a service subnet: 62 addresses, or 255.
const PREFIX_LEN: (u8, u8) = (26, 120);

/// Between the service and the node in what is hashed. No name of a service may hold it.
const SEPARATOR: u8 = 0x1f;

/// Slots looked at before a cluster counts as full. More than a node has services; a registry that is as good as full
/// must not keep a request busy.
const PROBES_MAX: u64 = 1 << 16;

/// Why no subnet was assigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// The cluster is no larger than one subnet.
    #[error(
        "the cluster {cluster} is too small: services need subnets of /{subnet} in it, so its prefix must be shorter"
    )]
    ClusterTooSmall {
        /// The cluster.
        cluster: IpNet,
        /// Length of a subnet's prefix.
        subnet: u8,
    },
    /// All slots are taken.
    #[error("no subnet of the cluster {0} is free for another service: tear services down or use a larger cluster")]
    Full(IpNet),
}

/// Whose a subnet is: a service on a node.
pub type SubnetKey = (String, u64);

/// The subnets assigned on this node.
#[derive(Clone, Debug)]
pub struct SubnetRegistry {
    cluster: IpNet,
    reserved: Vec<IpNet>,
    assigned: BTreeMap<SubnetKey, IpNet>,
    /// The same, by subnet.
    owners: HashMap<IpNet, SubnetKey>,
}

impl SubnetRegistry {
    /// A registry of the subnets of `cluster` that overlap none of `reserved`.
    #[must_use]
    pub fn new(cluster: IpNet, reserved: Vec<IpNet>) -> Self {
        Self { cluster: cluster.trunc(), reserved, assigned: BTreeMap::new(), owners: HashMap::new() }
    }

    /// Has the next subnets come from another cluster. Those assigned stay as they are.
    pub fn move_to(&mut self, cluster: IpNet, reserved: Vec<IpNet>) {
        (self.cluster, self.reserved) = (cluster.trunc(), reserved);
    }

    /// Where the next subnets come from.
    #[must_use]
    pub fn cluster(&self) -> IpNet {
        self.cluster
    }

    /// What is assigned, by service and node.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SubnetKey, IpNet)> {
        self.assigned.iter().map(|(key, subnet)| (key, *subnet))
    }

    /// Assigns a subnet; the same again for the same service and node. `is_free` has a say in which.
    ///
    /// # Errors
    /// [`SubnetError`].
    pub fn assign(&mut self, service: &str, node: u64, is_free: impl Fn(IpNet) -> bool) -> Result<IpNet, SubnetError> {
        let key = (service.to_owned(), node);
        if let Some(subnet) = self.assigned.get(&key) {
            return Ok(*subnet);
        }
        let subnet_len = if self.cluster.max_prefix_len() == 32 { PREFIX_LEN.0 } else { PREFIX_LEN.1 };
        let bits = subnet_len.checked_sub(self.cluster.prefix_len()).filter(|bits| *bits > 0);
        let Some(bits) = bits else {
            return Err(SubnetError::ClusterTooSmall { cluster: self.cluster, subnet: subnet_len });
        };
        // As published: the number of slots is kept in 64 bits, and is one less where it does not fit.
        let slots = 1_u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
        let first = slot_hash(service, node) % slots;
        for probe in 0..slots.min(PROBES_MAX) {
            let slot = u128::from(first.wrapping_add(probe) % slots);
            let subnet = self.slot(slot, subnet_len);
            if self.is_free(subnet) && is_free(subnet) {
                self.owners.insert(subnet, key.clone());
                self.assigned.insert(key, subnet);
                return Ok(subnet);
            }
        }
        Err(SubnetError::Full(self.cluster))
    }

    /// Takes over what was assigned before, wherever it lies.
    pub fn restore(&mut self, service: &str, node: u64, subnet: IpNet) {
        let key = (service.to_owned(), node);
        self.release(service, node);
        self.owners.insert(subnet, key.clone());
        self.assigned.insert(key, subnet);
    }

    /// Gives a subnet back. Returns which, if there was one.
    pub fn release(&mut self, service: &str, node: u64) -> Option<IpNet> {
        let subnet = self.assigned.remove(&(service.to_owned(), node))?;
        self.owners.remove(&subnet);
        Some(subnet)
    }

    fn is_free(&self, subnet: IpNet) -> bool {
        !self.owners.contains_key(&subnet)
            && !self.reserved.iter().any(|reserved| hosts::overlap(*reserved, subnet).is_some())
            // Those of another cluster are not on the slots of this one.
            && !self.owners.keys().any(|other| other.prefix_len() != subnet.prefix_len() && hosts::overlap(*other, subnet).is_some())
    }

    fn slot(&self, slot: u128, subnet_len: u8) -> IpNet {
        let host_bits = self.cluster.max_prefix_len() - subnet_len;
        let base = hosts::address(self.cluster, slot.wrapping_shl(host_bits.into()));
        // The length is one of the family's.
        IpNet::new(base, subnet_len).unwrap_or(self.cluster)
    }
}

/// FNV-1a of the service, the separator and the number of the node in decimal digits.
fn slot_hash(service: &str, node: u64) -> u64 {
    let node = node.to_string();
    let bytes = service.bytes().chain([SEPARATOR]).chain(node.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
