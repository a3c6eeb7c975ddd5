//! The double of the host: addresses, routes, bridges, containers' links and the firewall, in memory.
//!
//! It answers as the real one does: what belongs to others is left alone and is an error where it is in the way, and the
//! firewall refuses what the real one refuses.

use super::Host;
use super::fake::{Lab, Link, Trouble, World};
use super::host::Interface;
use crate::attach::{AttachError, HostEnd, Marked, Plan};
use crate::firewall::double::Judge;
use crate::firewall::{Change, Desired, Drops, FirewallError, Health};
use crate::host::sysctl::Ledger;
use crate::host::{HostError, Netns, ProcessId, ResolvConfError, Watch};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// How long a slow call takes.
const SLOW: Duration = Duration::from_secs(60);

impl Lab {
    /// A call that does `work`, with the trouble that is in store for it. It is about the link `name`, if about one.
    async fn call<E: From<HostError>>(
        &self,
        call: &'static str,
        name: &str,
        work: impl FnOnce(&mut World) -> Result<(), E>,
    ) -> Result<(), E> {
        let trouble = self.world().next_trouble(call, name);
        match trouble {
            Some(Trouble::Refused) => return Err(refusal(call).into()),
            Some(Trouble::Slow) => tokio::time::sleep(SLOW).await,
            _ => {}
        }
        let mut world = self.world();
        let done = work(&mut world);
        match trouble {
            Some(Trouble::DoneAndRefused) => done.and(Err(refusal(call).into())),
            Some(Trouble::Removed) => {
                world.remove_behind(name);
                done
            }
            _ => done,
        }
    }

    /// A call of the firewall: all or nothing.
    async fn firewall_call(
        &self,
        call: &'static str,
        work: impl FnOnce(&mut Judge) -> Result<(), FirewallError>,
    ) -> Result<(), FirewallError> {
        let trouble = self.world().next_trouble(call, "");
        match trouble {
            Some(Trouble::Refused | Trouble::DoneAndRefused) => return Err(FirewallError::Contended),
            Some(Trouble::Slow) => tokio::time::sleep(SLOW).await,
            _ => {}
        }
        work(&mut self.world().fence)
    }

    async fn link_call(
        &self,
        call: &'static str,
        interface: &str,
        work: impl FnOnce(&mut Link),
    ) -> Result<(), HostError> {
        let missing = || HostError::NotFound { what: format!("find link {interface}") };
        self.call(call, interface, |world| world.links.get_mut(interface).map(work).ok_or_else(missing)).await
    }
}

fn refusal(call: &str) -> HostError {
    HostError::System { what: call.into(), source: std::io::Error::other("told to fail") }
}

fn foreign(name: &str) -> HostError {
    HostError::Foreign { what: format!("make link {name}"), reason: "it has no mark of ours".into() }
}

impl Host for Lab {
    async fn add_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        let add = |link: &mut Link| {
            link.addresses.retain(|held| *held != address);
            link.addresses.push(address);
        };
        self.link_call("add_address", interface, add).await
    }

    async fn remove_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        self.link_call("remove_address", interface, |link| link.addresses.retain(|held| *held != address)).await
    }

    async fn path_mtu(&self, to: IpAddr) -> Option<u32> {
        self.world().paths.get(&to).copied()
    }

    async fn set_mtu(&self, interface: &str, mtu: u16) -> Result<(), HostError> {
        self.link_call("set_mtu", interface, |link| link.mtu = mtu).await
    }

    async fn set_up(&self, interface: &str) -> Result<(), HostError> {
        self.pass_gate().await;
        self.link_call("set_up", interface, |link| link.up = true).await
    }

    async fn add_route(&self, interface: &str, prefix: IpNet, source: IpAddr) -> Result<(), HostError> {
        self.link_call("add_route", interface, |link| {
            link.routes.insert(prefix, source);
        })
        .await
    }

    async fn remove_route(&self, interface: &str, prefix: IpNet) -> Result<(), HostError> {
        self.link_call("remove_route", interface, |link| {
            link.routes.remove(&prefix);
        })
        .await
    }

    async fn interface(&self, interface: &str) -> Result<Option<Interface>, HostError> {
        let shown = |link: &Link| Interface {
            up: link.up,
            mtu: link.mtu.into(),
            addresses: link.addresses.clone(),
            routes: link.routes.keys().copied().collect(),
        };
        Ok(self.world().links.get(interface).map(shown))
    }

    async fn watch(&self) -> Result<Watch, HostError> {
        let (tell, watch) = Watch::played();
        self.world().watchers.push(tell);
        Ok(watch)
    }

    async fn ensure_bridge(&self, bridge: &str, gateway: IpNet, mtu: u16) -> Result<bool, AttachError> {
        let mut repaired = false;
        self.call("ensure_bridge", bridge, |world| {
            if world.foreign.contains(bridge) {
                return Err(AttachError::from(foreign(bridge)));
            }
            let was = world.bridges.insert(bridge.to_owned(), (gateway, mtu));
            repaired = was.is_some_and(|was| was != (gateway, mtu));
            Ok(())
        })
        .await
        .map(|()| repaired)
    }

    async fn remove_bridge(&self, bridge: &str) -> Result<(), AttachError> {
        self.call("remove_bridge", bridge, |world| {
            let is_port = |host: &HostEnd| matches!(host, HostEnd::Port { bridge: of, .. } if of == bridge);
            let ports = world.veths.iter().filter(|(_, (_, link))| is_port(&link.host));
            let ports: Vec<_> = ports.map(|(name, _)| name.clone()).collect();
            if !ports.is_empty() && world.bridges.contains_key(bridge) {
                return Err(AttachError::BridgeInUse { name: bridge.into(), ports });
            }
            world.bridges.remove(bridge);
            Ok(())
        })
        .await
    }

    async fn attach(&self, plan: &Plan, _: &Netns) -> Result<Vec<String>, AttachError> {
        let mut repaired = Vec::new();
        let first = plan.links.first().map(|link| link.host_name.clone()).unwrap_or_default();
        self.call("attach", &first, |world| {
            for link in &plan.links {
                if world.foreign.contains(&link.host_name) {
                    return Err(foreign(&link.host_name).into());
                }
                if let HostEnd::Port { bridge, .. } = &link.host
                    && !world.bridges.contains_key(bridge)
                {
                    return Err(AttachError::NoBridge { name: bridge.clone() });
                }
                let holder = world.veths.get(&link.host_name).map(|(owner, _)| owner);
                if let Some(owner) = holder.filter(|owner| **owner != plan.owner) {
                    return Err(AttachError::OtherOwner { link: link.name.clone(), owner: owner.clone() });
                }
            }
            for link in &plan.links {
                let was = world.veths.insert(link.host_name.clone(), (plan.owner.clone(), link.clone()));
                if was.is_some_and(|(_, was)| was != *link) {
                    repaired.push(format!("{} was another", link.host_name));
                }
            }
            Ok(())
        })
        .await
        .map(|()| repaired)
    }

    async fn write_resolv_conf(&self, process: ProcessId, text: String) -> Result<(), ResolvConfError> {
        let write = |world: &mut World| {
            world.resolv_confs.insert(process.pid, text);
            Ok::<_, HostError>(())
        };
        let refused = |error| ResolvConfError::System { action: "write it", source: std::io::Error::other(error) };
        self.call("write_resolv_conf", "", write).await.map_err(refused)
    }

    async fn detach(&self, owner: &str, links: &[String]) -> Result<(), HostError> {
        let first = links.first().cloned().unwrap_or_default();
        self.call("detach", &first, |world| {
            world.veths.retain(|name, (held_by, _)| held_by != owner || !links.contains(name));
            Ok(())
        })
        .await
    }

    async fn has_link(&self, links: &[String]) -> Result<bool, HostError> {
        let world = self.world();
        Ok(links.iter().any(|link| world.veths.contains_key(link) || world.bridges.contains_key(link)))
    }

    async fn sweep(&self, wanted: impl Fn(&Marked<'_>) -> bool + Send + Sync) -> Result<Vec<String>, HostError> {
        let mut removed = Vec::new();
        self.call("sweep", "", |world| {
            let unwanted =
                |name: &str, object: String, is_bridge| !wanted(&Marked { name, object: Some(&object), is_bridge });
            let veths: Vec<_> = world
                .veths
                .extract_if(.., |name, (owner, link)| unwanted(name, format!("{owner}/{}", link.name), false))
                .collect();
            let bridges: Vec<_> =
                world.bridges.extract_if(.., |name, _| unwanted(name, format!("bridge:{name}"), true)).collect();
            removed.extend(bridges.into_iter().map(|(name, _)| name).chain(veths.into_iter().map(|(name, _)| name)));
            Ok::<_, HostError>(())
        })
        .await?;
        Ok(removed)
    }

    async fn fence_all(&self, desired: Desired) -> Result<(), FirewallError> {
        self.firewall_call("fence_all", |fence| {
            *fence = Judge::of(&desired)?;
            Ok(())
        })
        .await
    }

    async fn fence(&self, changes: Vec<Change>) -> Result<(), FirewallError> {
        self.firewall_call("fence", |fence| fence.change(changes)).await
    }

    async fn unfence(&self) -> Result<(), FirewallError> {
        self.firewall_call("unfence", |fence| {
            *fence = Judge::default();
            Ok(())
        })
        .await
    }

    async fn firewall(&self) -> Option<(Health, Drops)> {
        Some((Health::default(), Drops::default()))
    }

    fn note_forwarding(&self, _: &mut Ledger) -> Result<bool, HostError> {
        match self.world().next_trouble("note_forwarding", "") {
            Some(Trouble::Refused | Trouble::DoneAndRefused) => Err(refusal("note_forwarding")),
            _ => Ok(false),
        }
    }

    fn write_settings(&self, _: &Ledger) -> Result<(), HostError> {
        let mut world = self.world();
        match world.next_trouble("write_settings", "") {
            Some(Trouble::Refused | Trouble::DoneAndRefused) => Err(refusal("write_settings")),
            _ => {
                world.forwards = true;
                Ok(())
            }
        }
    }

    fn restore_settings(&self, _: &mut Ledger) -> Result<(), HostError> {
        self.world().forwards = false;
        Ok(())
    }

    async fn sweep_bridges(&self, keep: &[String]) -> Result<Vec<String>, HostError> {
        let mut removed = Vec::new();
        self.call("sweep_bridges", "", |world| {
            let swept = world.bridges.extract_if(.., |name, _| !keep.contains(name));
            removed.extend(swept.map(|(name, _)| name));
            Ok::<_, HostError>(())
        })
        .await?;
        Ok(removed)
    }
}
