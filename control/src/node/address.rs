//! From the words of `setup_global_overlay` to a checked plan: which interface, which address, which port.
//!
//! The node's address is the first behind the base of its slice, or of the cluster where it has no slice. It carries the
//! prefix of the *cluster*, in either family, so that the kernel routes the whole cluster to the device and nothing
//! beyond it. Everything is checked here, before anything is changed.

use super::error::NodeError;
use super::name::interface_name;
use crate::host::check_name;
use crate::ipam::first_behind_base;
use crate::ipc::wire::SetupGlobalOverlay;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};

/// The cluster before anyone named one.
pub const DEFAULT_CLUSTER: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 0, 0), 16));

/// A global overlay as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the interface.
    pub interface: String,
    /// Prefix of the cluster, without host bits.
    pub cluster: IpNet,
    /// This node's share of it, without host bits.
    pub slice: Option<IpNet>,
    /// Address of the node, with the prefix of the cluster.
    pub address: IpNet,
    /// UDP port of WireGuard; 0 lets the kernel choose.
    pub port: u16,
}

impl Plan {
    /// Checks `setup` and works out what follows from it.
    ///
    /// # Errors
    /// [`NodeError`] naming the field at fault.
    pub fn new(setup: &SetupGlobalOverlay) -> Result<Self, NodeError> {
        let bad_cluster = |reason: String| NodeError::ClusterCidr { cidr: setup.cluster_cidr.clone(), reason };
        let cluster = network(&setup.cluster_cidr).map_err(bad_cluster)?;
        let slice = setup.slice_cidr.as_deref().map(|text| slice(text, cluster)).transpose()?;
        let own = slice.unwrap_or(cluster);
        let node_ip = first_behind_base(own).ok_or_else(|| {
            let reason = format!("{own} has no address behind its base for this node: use a shorter prefix");
            match &setup.slice_cidr {
                Some(cidr) => NodeError::SliceCidr { cidr: cidr.clone(), reason },
                None => bad_cluster(reason),
            }
        })?;
        let address = IpNet::new(node_ip, cluster.prefix_len()).map_err(|error| bad_cluster(error.to_string()))?;
        let interface = interface_name(&[&setup.deployment, &setup.instance_id], "g");
        if check_name(&interface).is_err() {
            return Err(NodeError::Names { interface });
        }
        Ok(Self { interface, cluster, slice, address, port: setup.wg_port })
    }

    /// Address of the node.
    #[must_use]
    pub fn node_ip(&self) -> IpAddr {
        self.address.addr()
    }
}

fn slice(text: &str, cluster: IpNet) -> Result<IpNet, NodeError> {
    let bad = |reason| NodeError::SliceCidr { cidr: text.to_owned(), reason };
    let slice = network(text).map_err(bad)?;
    if cluster.contains(&slice) { Ok(slice) } else { Err(bad(format!("it is not inside the cluster {cluster}"))) }
}

/// A prefix, or an address standing for itself; host bits are dropped.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let parsed = text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
    parsed.map(|net| net.trunc()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(cluster: &str, slice: Option<&str>) -> SetupGlobalOverlay {
        SetupGlobalOverlay {
            deployment: "prod".into(),
            instance_id: "0".into(),
            cluster_cidr: cluster.into(),
            slice_cidr: slice.map(Into::into),
            wg_port: 51420,
            host_adapter_mandatory: false,
            nat: None,
        }
    }

    #[test]
    fn the_address_is_behind_the_base_and_spans_the_cluster() {
        for (cluster, slice, address) in [
            ("10.200.0.0/16", Some("10.200.5.0/28"), "10.200.5.1/16"),
            ("10.200.0.0/16", None, "10.200.0.1/16"),
            ("10.200.77.3/16", Some("10.200.5.9/28"), "10.200.5.1/16"),
            ("10.0.0.0/8", Some("10.77.0.0/24"), "10.77.0.1/8"),
            ("192.168.4.0/24", None, "192.168.4.1/24"),
            ("10.9.9.8/31", None, "10.9.9.9/31"),
            ("fd00:77::/48", Some("fd00:77:0:5::/64"), "fd00:77:0:5::1/48"),
            ("fd00::/8", None, "fd00::1/8"),
        ] {
            let plan = Plan::new(&setup(cluster, slice)).unwrap();
            assert_eq!(plan.address.to_string(), address, "{cluster} {slice:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (cluster, slice, text) in [
            ("nonsense", None, "invalid cluster CIDR nonsense: invalid IP address syntax"),
            ("10.200.0.0/33", None, "invalid cluster CIDR 10.200.0.0/33: invalid IP address syntax"),
            ("10.200.0.1", None, "invalid cluster CIDR 10.200.0.1: 10.200.0.1/32 has no address"),
            ("10.200.0.0/16", Some(""), "invalid slice CIDR : invalid IP address syntax"),
            ("10.200.0.0/16", Some("10.201.0.0/28"), "invalid slice CIDR 10.201.0.0/28: it is not inside"),
            ("10.200.0.0/16", Some("fd00::/64"), "invalid slice CIDR fd00::/64: it is not inside"),
            ("10.200.0.0/16", Some("10.0.0.0/8"), "invalid slice CIDR 10.0.0.0/8: it is not inside"),
            ("10.200.0.0/16", Some("10.200.5.7"), "invalid slice CIDR 10.200.5.7: 10.200.5.7/32 has no address"),
        ] {
            let error = Plan::new(&setup(cluster, slice)).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        let slashed = SetupGlobalOverlay { deployment: "a/b".into(), ..setup("10.200.0.0/16", None) };
        assert!(Plan::new(&slashed).unwrap_err().to_string().contains("zl-a/b-0-g"));
    }
}
