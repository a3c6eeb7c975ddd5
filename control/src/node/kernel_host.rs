//! The network of this host, by netlink: what [`super::Host`] promises, in the kernel.

use super::Host;
use super::host::Interface;
use crate::attach::{AttachError, Attacher, BridgePlan, HostEnd, Marked, Plan, wiring};
use crate::firewall::{Change, Desired, Drops, Firewall, FirewallError, Health};
use crate::host::sysctl::{Ledger, Purpose, settle};
use crate::host::{
    HostError, LinkKind, Mark, Netlink, Netns, ProcessId, ResolvConfError, RouteInfo, Watch, resolv_conf,
};
use ipnet::IpNet;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a file in a container gets to be written.
const FILE_TIME: Duration = Duration::from_secs(5);

/// The network of the namespace it was opened in.
#[derive(Clone, Debug)]
pub struct KernelHost {
    attacher: Attacher,
    /// Or why there is none.
    firewall: Result<Arc<Firewall>, Arc<str>>,
}

impl KernelHost {
    /// The network of the thread's namespace, for the instance whose state is in `state_dir`.
    ///
    /// # Errors
    /// [`HostError::System`] where the kernel gives no sockets or threads. Without a firewall it is open all the same, and
    /// says so when that is asked for something.
    pub fn open(state_dir: &Path) -> Result<Self, HostError> {
        let instance = instance_of(state_dir);
        let attacher = Attacher::open(Mark::new(&instance)?)?;
        let firewall = Firewall::start(&instance).map(Arc::new).map_err(|error| Arc::from(error.to_string()));
        Ok(Self { attacher, firewall })
    }

    /// Runs what waits for the firewall where waiting is no harm.
    async fn on_firewall<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Firewall) -> Result<T, FirewallError> + Send + 'static,
    ) -> Result<T, FirewallError> {
        let firewall = self.firewall.clone().map_err(|why| FirewallError::Unavailable(why.to_string()))?;
        tokio::task::spawn_blocking(move || work(&firewall)).await.unwrap_or(Err(FirewallError::Stopped))
    }

    fn netlink(&self) -> &Netlink {
        self.attacher.netlink()
    }
}

/// Name of the instance whose state is in `state_dir`: the same at every start, also where the state itself was lost, so
/// that what it left behind is known again.
pub(crate) fn instance_of(state_dir: &Path) -> String {
    let path = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let mut hasher = SipHasher13::new();
    hasher.write(path.as_os_str().as_bytes());
    format!("{:012x}", hasher.finish() >> 16)
}

/// A kernel that keeps a setting to itself, as in a container, may still do what it is for.
fn settle_or_complain(device: &str, purpose: Purpose) {
    if let Err(error) = settle(device, purpose) {
        tracing::warn!(%error, device, "a setting of a device could not be made");
    }
}

/// What a bridge is for, in its mark. Its name is made from that of the service, which can be too long for a mark.
fn object_of(bridge: &str) -> String {
    format!("bridge:{bridge}")
}

impl Host for KernelHost {
    async fn add_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        self.netlink().replace_address(self.netlink().link(interface).await?.index, address).await
    }

    async fn remove_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        self.netlink().remove_address(self.netlink().link(interface).await?.index, address).await.map(|_| ())
    }

    async fn path_mtu(&self, to: IpAddr) -> Option<u32> {
        let (path, device) = self.netlink().path_mtu(to).await.ok()?;
        let link = self.netlink().link_by_index(device).await.ok()?;
        (link.kind != Some(LinkKind::Tun)).then_some(path.mtu)
    }

    async fn set_mtu(&self, interface: &str, mtu: u16) -> Result<(), HostError> {
        self.netlink().set_mtu(self.netlink().link(interface).await?.index, mtu.into()).await
    }

    async fn set_up(&self, interface: &str) -> Result<(), HostError> {
        self.netlink().set_up(self.netlink().link(interface).await?.index, true).await?;
        settle_or_complain(interface, Purpose::Tunnel);
        Ok(())
    }

    async fn add_route(&self, interface: &str, prefix: IpNet, source: IpAddr) -> Result<(), HostError> {
        let device = self.netlink().link(interface).await?.index;
        self.netlink().replace_route(&RouteInfo { source: Some(source), ..RouteInfo::new(prefix, device) }).await
    }

    async fn remove_route(&self, interface: &str, prefix: IpNet) -> Result<(), HostError> {
        let device = self.netlink().link(interface).await?.index;
        self.netlink().remove_route(prefix, device).await.map(|_| ())
    }

    async fn interface(&self, interface: &str) -> Result<Option<Interface>, HostError> {
        let Some(link) = self.netlink().find_link(interface).await? else { return Ok(None) };
        let addresses = self.netlink().addresses(link.index).await?;
        let routes = self.netlink().routes_through(link.index).await?.into_iter().map(|route| route.prefix).collect();
        Ok(Some(Interface { up: link.up, mtu: link.mtu, addresses, routes }))
    }

    async fn watch(&self) -> Result<Watch, HostError> {
        Watch::open(self.netlink(), self.attacher.mark()).await
    }

    async fn ensure_bridge(&self, bridge: &str, gateway: IpNet, mtu: u16) -> Result<bool, AttachError> {
        let plan = BridgePlan {
            name: bridge.to_owned(),
            object: object_of(bridge),
            mtu: mtu.into(),
            mac: wiring::mac([gateway.addr()]),
            addresses: vec![gateway],
        };
        let ensured = self.attacher.ensure_bridge(&plan).await?;
        settle_or_complain(bridge, Purpose::Bridge);
        Ok(ensured.repaired)
    }

    async fn remove_bridge(&self, bridge: &str) -> Result<(), AttachError> {
        match self.attacher.remove_bridge(bridge, &object_of(bridge)).await {
            // Somebody else's, under a name that was ours.
            Err(AttachError::Host(HostError::Foreign { .. })) => Ok(()),
            removed => removed.map(|_| ()),
        }
    }

    async fn attach(&self, plan: &Plan, netns: &Netns) -> Result<Vec<String>, AttachError> {
        let attached = self.attacher.attach(plan, netns).await?;
        for link in &plan.links {
            let purpose = match link.host {
                HostEnd::Port { .. } => Purpose::Port,
                HostEnd::Routed { .. } => Purpose::RoutedVeth,
            };
            settle_or_complain(&link.host_name, purpose);
        }
        Ok(attached.links.iter().flat_map(|link| &link.repaired).map(ToString::to_string).collect())
    }

    async fn write_resolv_conf(&self, process: ProcessId, text: String) -> Result<(), ResolvConfError> {
        let write = tokio::task::spawn_blocking(move || resolv_conf::write(process, &text));
        // Its file system may be one that never answers.
        match tokio::time::timeout(FILE_TIME, write).await {
            Ok(Ok(written)) => written,
            _ => Err(ResolvConfError::System { action: "write it", source: ErrorKind::TimedOut.into() }),
        }
    }

    async fn detach(&self, owner: &str, links: &[String]) -> Result<(), HostError> {
        let detached = self.attacher.detach(owner, links).await?;
        if !detached.others.is_empty() {
            tracing::info!(owner, others = ?detached.others, "links of others have the names now");
        }
        Ok(())
    }

    async fn has_link(&self, links: &[String]) -> Result<bool, HostError> {
        for link in links {
            if self.netlink().find_link(link).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn sweep(&self, wanted: impl Fn(&Marked<'_>) -> bool + Send + Sync) -> Result<Vec<String>, HostError> {
        Ok(self.attacher.sweep(wanted).await?.removed)
    }

    async fn fence_all(&self, desired: Desired) -> Result<(), FirewallError> {
        self.on_firewall(move |firewall| firewall.apply(&desired).map(|_| ())).await
    }

    async fn fence(&self, changes: Vec<Change>) -> Result<(), FirewallError> {
        match changes.is_empty() {
            true => Ok(()),
            false => self.on_firewall(move |firewall| firewall.change(changes)).await,
        }
    }

    async fn unfence(&self) -> Result<(), FirewallError> {
        match &self.firewall {
            Ok(_) => self.on_firewall(Firewall::stop).await,
            Err(_) => Ok(()),
        }
    }

    async fn firewall(&self) -> Option<(Health, Drops)> {
        self.on_firewall(|firewall| Ok((firewall.health(), firewall.drops()?))).await.ok()
    }

    fn note_forwarding(&self, ledger: &mut Ledger) -> Result<bool, HostError> {
        let v4 = ledger.forward_v4()?;
        // Links of ours come and go by the thousand, and take no advice from routers.
        let v6 = ledger.forward_v6(|device| device.starts_with("veth-") || device.starts_with("zl-"))?;
        Ok(v4 || v6)
    }

    fn write_settings(&self, ledger: &Ledger) -> Result<(), HostError> {
        ledger.write().map(|_| ())
    }

    fn restore_settings(&self, ledger: &mut Ledger) -> Result<(), HostError> {
        let others_forward = self.firewall.as_ref().is_ok_and(|firewall| firewall.health().others_forward);
        let left = ledger.restore(|record| others_forward && record.name.contains("forward"))?;
        for record in left {
            tracing::info!(name = record.name, "a setting of the kernel stays: others have changed it or need it");
        }
        Ok(())
    }

    async fn sweep_bridges(&self, keep: &[String]) -> Result<Vec<String>, HostError> {
        let swept = self.attacher.sweep(|marked| !marked.is_bridge || keep.iter().any(|name| name == marked.name));
        Ok(swept.await?.removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Ownership;
    use crate::lab::rights_or_skip;
    use std::net::{SocketAddr, UdpSocket};

    /// Where packets to `to` would come from, if there is a way to it.
    fn source_towards(to: &str) -> Option<IpAddr> {
        let to: IpAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        Some(socket.local_addr().unwrap().ip())
    }

    /// Runs `work` on a network of its own, with a link `ov0` that leads nowhere.
    fn on_a_network(work: impl AsyncFnOnce(&KernelHost, &Netlink) + Send) {
        if !rights_or_skip() {
            return;
        }
        let configured = Netns::create().unwrap().configure(async |netlink| {
            netlink.create_veth("ov0", "ov1", None).await?;
            work(&KernelHost::open(Path::new("/nowhere"))?, netlink).await;
            Ok(())
        });
        configured.unwrap();
    }

    #[test]
    fn an_address_routes_the_cluster_and_nothing_else_in_both_families_as_often_as_it_is_given() {
        on_a_network(async |host, netlink| {
            for (address, inside, outside) in [
                ("10.200.5.1/16", "10.200.255.3", "10.201.0.1"),
                ("fd00:77:0:5::1/48", "fd00:77:0:ffff::1", "fd00:78::1"),
            ] {
                let address: IpNet = address.parse().unwrap();
                for _ in 0..2 {
                    host.set_mtu("ov0", 1420).await.unwrap();
                    host.add_address("ov0", address).await.unwrap();
                    host.set_up("ov0").await.unwrap();
                }
                assert_eq!(source_towards(inside), Some(address.addr()));
                assert_eq!(source_towards(outside), None);
                for _ in 0..2 {
                    host.remove_address("ov0", address).await.unwrap();
                    assert_eq!(source_towards(inside), None);
                }
            }
            assert_eq!(netlink.link("ov0").await.unwrap().mtu, 1420);
        });
    }

    #[test]
    fn bridges_are_made_and_swept_and_those_of_others_left_alone() {
        on_a_network(async |host, netlink| {
            let gateway: IpNet = "10.200.187.129/26".parse().unwrap();
            for _ in 0..2 {
                host.ensure_bridge("zl-prod-0-web-b", gateway, 1420).await.unwrap();
            }
            let bridge = netlink.link("zl-prod-0-web-b").await.unwrap();
            assert!(bridge.up && bridge.mtu == 1420 && bridge.kind == Some(LinkKind::Bridge));
            assert!(matches!(host.attacher.mark().ownership(&bridge), Ownership::Ours(_)));
            // What looks like ours and carries no mark of ours, and what another instance has.
            netlink.create_bridge("zl-prod-0-db-b").await.unwrap();
            let other = KernelHost::open(Path::new("/elsewhere")).unwrap();
            other.ensure_bridge("zl-prod-1-db-b", "10.99.0.1/24".parse().unwrap(), 1420).await.unwrap();
            for name in ["zl-prod-0-db-b", "zl-prod-1-db-b"] {
                let refused = host.ensure_bridge(name, gateway, 1420).await.unwrap_err();
                assert!(matches!(refused, AttachError::Host(HostError::Foreign { .. })), "{refused}");
                host.remove_bridge(name).await.unwrap();
                assert!(netlink.find_link(name).await.unwrap().is_some());
            }
            host.ensure_bridge("zl-prod-0-old-b", "10.200.1.1/26".parse().unwrap(), 1420).await.unwrap();
            let keep = ["zl-prod-0-web-b".to_owned()];
            assert_eq!(host.sweep_bridges(&keep).await.unwrap(), ["zl-prod-0-old-b"]);
            for _ in 0..2 {
                host.remove_bridge("zl-prod-0-web-b").await.unwrap();
            }
            assert!(netlink.find_link("zl-prod-0-web-b").await.unwrap().is_none());
        });
    }

    #[test]
    fn routes_of_peers_come_and_go() {
        on_a_network(async |host, _| {
            let own: IpNet = "10.200.141.129/32".parse().unwrap();
            host.add_address("ov0", own).await.unwrap();
            host.set_up("ov0").await.unwrap();
            let prefix: IpNet = "10.200.7.0/26".parse().unwrap();
            for _ in 0..2 {
                host.add_route("ov0", prefix, own.addr()).await.unwrap();
            }
            assert_eq!(source_towards("10.200.7.9"), Some(own.addr()));
            for _ in 0..2 {
                host.remove_route("ov0", prefix).await.unwrap();
            }
            assert_eq!(source_towards("10.200.7.9"), None);
        });
    }

    #[test]
    fn a_missing_interface_is_not_found() {
        on_a_network(async |host, _| assert!(host.set_up("nobody").await.unwrap_err().is_not_found()));
    }

    #[test]
    fn instances_are_told_apart_by_where_their_state_is() {
        let names = ["/var/lib/a", "/var/lib/b"].map(|path| instance_of(Path::new(path)));
        assert_ne!(names[0], names[1]);
        assert_eq!(names[0], instance_of(Path::new("/var/lib/a")));
        assert!(names.iter().all(|name| name.len() == 12));
    }
}
