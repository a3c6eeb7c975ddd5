//! Doubles of device and host: they keep in memory what the real ones would have in the kernel, and have the troubles that a
//! test has in store for them. The host's half is in `fake_host`.

use super::{DeviceMaker, OverlayDevice};
use crate::attach::LinkPlan;
use crate::firewall::double::Judge;
use crate::host::{Change, Event as HostEvent};
use ginnel_backends::device::{DeviceError, DeviceOptions, DeviceState, PeerState};
use ginnel_engine::command::{DeviceUpdate, PeerUpdate, PrivateKeyUpdate};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::port::{Offload, OffloadState};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;
use tokio::sync::{Semaphore, mpsc};

/// What the doubles hold in common, for a test to look at and to turn.
#[derive(Clone, Default)]
pub(crate) struct Lab(Arc<Mutex<World>>, Arc<Gate>);

#[derive(Default)]
pub(crate) struct World {
    /// The interfaces there are.
    pub(crate) links: BTreeMap<String, Link>,
    /// Devices ever made, or tried to.
    pub(crate) made: usize,
    /// Every update of any device.
    pub(crate) updates: Vec<DeviceUpdate>,
    /// How many of the next devices cannot be made.
    pub(crate) fail_made: usize,
    /// What devices without an interface still remember.
    ghosts: BTreeMap<String, Link>,
    /// Ports that another program has.
    pub(crate) taken_ports: Vec<u16>,
    /// The `resolv.conf` of containers, by their processes.
    pub(crate) resolv_confs: BTreeMap<u32, String>,
    /// Name of the host call to fail, and how many calls of that name to let through first.
    pub(crate) fail: Option<(&'static str, usize)>,
    /// Handshakes to report.
    pub(crate) handshakes: BTreeMap<PublicKey, SystemTime>,
    /// Peers that roamed.
    pub(crate) roamed: BTreeMap<PublicKey, std::net::SocketAddr>,
    /// The bridges there are: address and MTU.
    pub(crate) bridges: BTreeMap<String, (IpNet, u16)>,
    /// The host's ends of containers' links, with their owners.
    pub(crate) veths: BTreeMap<String, (String, LinkPlan)>,
    /// What the firewall brings about.
    pub(crate) fence: Judge,
    /// Links that others made, under names of ours.
    pub(crate) foreign: BTreeSet<String>,
    /// What is to happen to which of the coming calls that change something; the next one has number 0.
    pub(crate) troubles: BTreeMap<usize, Trouble>,
    /// Calls that changed something, or were to.
    pub(crate) calls: Vec<&'static str>,
    /// How many troubles have come true.
    pub(crate) troubled: usize,
    /// MTU of the paths to addresses.
    pub(crate) paths: BTreeMap<IpAddr, u32>,
    /// Who is told what happens to links.
    pub(crate) watchers: Vec<mpsc::Sender<HostEvent>>,
    /// Whether the host was told to forward.
    pub(crate) forwards: bool,
}

/// What can happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is refused, and nothing happens.
    Refused,
    /// It is done, and refused all the same. What is all or nothing is refused.
    DoneAndRefused,
    /// It takes a minute.
    Slow,
    /// Somebody else takes the name just before.
    Usurped,
    /// What it is about is removed by somebody else right after.
    Removed,
}

/// An interface, as the kernel would show it.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) mtu: u16,
    pub(crate) up: bool,
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) port: u16,
    pub(crate) peers: Vec<PeerState>,
    /// Routes, and the source of packets along them.
    pub(crate) routes: BTreeMap<IpNet, IpAddr>,
    /// Somebody else than the node changed it.
    changed: bool,
    events: Option<SyncSender<Event>>,
}

/// What the kernel chooses where it is asked to, the first time.
pub(crate) const CHOSEN_PORT: u16 = 40_000;

/// Holds `set_up` of the host until opened.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(Semaphore::MAX_PERMITS))
    }
}

impl Lab {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Makes every bring-up wait until [`Lab::open_gate`].
    pub(crate) fn close_gate(&self) {
        self.1.0.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn open_gate(&self) {
        self.1.0.add_permits(1000);
    }

    /// Changes a device as `wg set` would.
    pub(crate) fn wg_set(&self, name: &str, change: impl FnOnce(&mut Link)) {
        self.with_link(name, |link| {
            change(link);
            link.changed = true;
        });
    }

    /// Removes an interface as an administrator would.
    pub(crate) fn delete_link(&self, name: &str) {
        self.delete_link_unnoticed(name);
        self.world().ghosts.get_mut(name).unwrap().events = None;
    }

    /// The same, without a word from the device.
    pub(crate) fn delete_link_unnoticed(&self, name: &str) {
        let mut world = self.world();
        let link = world.links.remove(name).unwrap();
        world.ghosts.insert(name.to_owned(), link);
    }

    /// Has the kernel tell of a change to a link.
    pub(crate) fn tell_change(&self, name: &str, change: Change) {
        let event = HostEvent::Link { index: 0, name: name.to_owned(), object: None, change };
        // Those of earlier nodes are gone.
        self.world().watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }

    /// Has a device tell something.
    pub(crate) fn tell(&self, name: &str, event: Event) {
        self.world().links[name].events.as_ref().unwrap().try_send(event).unwrap();
    }

    pub(super) async fn pass_gate(&self) {
        self.1.0.acquire().await.unwrap().forget();
    }

    pub(super) fn with_link(&self, interface: &str, work: impl FnOnce(&mut Link)) {
        if let Some(link) = self.world().links.get_mut(interface) {
            work(link);
        }
    }
}

impl World {
    /// What is to happen to this call, which is about the link `name`, if about one. What is to happen before has then.
    pub(super) fn next_trouble(&mut self, call: &'static str, name: &str) -> Option<Trouble> {
        self.calls.push(call);
        if let Some((failing, left)) = &mut self.fail
            && *failing == call
        {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => {
                    self.fail = None;
                    return Some(Trouble::Refused);
                }
            }
        }
        let trouble = self.troubles.remove(&0);
        self.troubles = std::mem::take(&mut self.troubles).into_iter().map(|(at, what)| (at - 1, what)).collect();
        self.troubled += usize::from(trouble.is_some());
        let free = !self.links.contains_key(name) && !self.bridges.contains_key(name) && !self.veths.contains_key(name);
        if trouble == Some(Trouble::Usurped) && !name.is_empty() && free {
            self.foreign.insert(name.to_owned());
        }
        trouble
    }

    /// The port that the device `name` gets.
    fn bind(&self, name: &str, port: u16) -> Result<u16, DeviceError> {
        let others = || self.links.iter().any(|(other, link)| link.port == port && other != name);
        match port {
            0 => Ok(CHOSEN_PORT),
            port if self.taken_ports.contains(&port) || others() => Err(DeviceError::PortTaken { port }),
            port => Ok(port),
        }
    }

    /// Somebody else removes a link.
    pub(super) fn remove_behind(&mut self, name: &str) {
        self.bridges.remove(name);
        self.veths.remove(name);
        if let Some(mut link) = self.links.remove(name) {
            link.events = None;
            self.ghosts.insert(name.to_owned(), link);
        }
    }
}

impl DeviceMaker for Lab {
    fn open(&self, options: &DeviceOptions) -> Result<Box<dyn OverlayDevice>, DeviceError> {
        let mut world = self.world();
        let trouble = world.next_trouble("open", &options.name);
        if matches!(trouble, Some(Trouble::Refused | Trouble::DoneAndRefused)) {
            return Err(DeviceError::Denied { action: "making a device" });
        }
        if world.foreign.contains(&options.name) || world.links.contains_key(&options.name) {
            return Err(DeviceError::Exists(options.name.clone()));
        }
        world.made += 1;
        if world.fail_made > 0 {
            world.fail_made -= 1;
            return Err(DeviceError::Denied { action: "making a device" });
        }
        let port = world.bind(&options.name, options.listen_port)?;
        let (sender, events) = sync_channel(64);
        world.links.insert(options.name.clone(), Link { events: Some(sender), port, ..Link::default() });
        let events = Mutex::new(Some(events));
        Ok(Box::new(FakeDevice { lab: self.clone(), options: options.clone(), events }))
    }
}

struct FakeDevice {
    lab: Lab,
    options: DeviceOptions,
    events: Mutex<Option<Receiver<Event>>>,
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        let mut world = self.lab.world();
        world.links.remove(&self.options.name);
        world.ghosts.remove(&self.options.name);
    }
}

impl OverlayDevice for FakeDevice {
    fn name(&self) -> String {
        self.options.name.clone()
    }

    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        let mut world = self.lab.world();
        let trouble = world.next_trouble("apply", &self.options.name);
        if matches!(trouble, Some(Trouble::Refused | Trouble::DoneAndRefused)) {
            return Err(DeviceError::Denied { action: "changing a device" });
        }
        if trouble == Some(Trouble::Removed) {
            world.remove_behind(&self.options.name);
        }
        let port = update.listen_port.map(|port| world.bind(&self.options.name, port)).transpose()?;
        world.updates.push(update.clone());
        let link = world.links.get_mut(&self.options.name).ok_or(DeviceError::Stopped)?;
        match update.private_key {
            Some(PrivateKeyUpdate::Set(key)) => link.private_key = Some(key),
            Some(PrivateKeyUpdate::Clear) => link.private_key = None,
            None => {}
        }
        link.port = port.unwrap_or(link.port);
        if update.replace_peers {
            link.peers.clear();
        }
        for peer in update.peers {
            change_peer(&mut link.peers, &peer);
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.lab.world().links.contains_key(&self.options.name)
    }

    fn take_changed(&self) -> bool {
        let mut world = self.lab.world();
        world.links.get_mut(&self.options.name).is_some_and(|link| std::mem::take(&mut link.changed))
    }

    fn take_events(&self) -> Option<Receiver<Event>> {
        self.events.lock().unwrap().take()
    }

    fn state(&self) -> DeviceState {
        let world = self.lab.world();
        let empty = Link::default();
        let name = &self.options.name;
        let link = world.links.get(name).or(world.ghosts.get(name)).unwrap_or(&empty);
        let live = |peer: &PeerState| PeerState {
            last_handshake: world.handshakes.get(&peer.public_key).copied(),
            endpoint: world.roamed.get(&peer.public_key).copied().or(peer.endpoint),
            ..peer.clone()
        };
        DeviceState {
            name: self.options.name.clone(),
            mtu: link.mtu,
            private_key: link.private_key.clone(),
            listen_port: link.port,
            fwmark: 0,
            peers: link.peers.iter().map(live).collect(),
            offloads: vec![(Offload::TunTcp, OffloadState::On, 0)],
            drops: DropReason::ALL
                .iter()
                .map(|reason| (*reason, u64::from(*reason == DropReason::OutboundUnrouted)))
                .collect(),
            totals: Vec::new(),
            workers: self.options.workers.max(1),
            cipher: "none",
        }
    }
}

fn change_peer(peers: &mut Vec<PeerState>, update: &PeerUpdate) {
    let position = peers.iter().position(|peer| peer.public_key == update.public_key);
    if update.remove {
        peers.extract_if(.., |peer| peer.public_key == update.public_key).for_each(drop);
        return;
    }
    if position.is_none() && update.update_only {
        return;
    }
    for change in &update.allowed_ips {
        for other in peers.iter_mut().filter(|peer| !change.remove && peer.public_key != update.public_key) {
            other.allowed_ips.retain(|held| *held != change.prefix);
        }
    }
    let position = position.unwrap_or_else(|| {
        peers.push(PeerState {
            public_key: update.public_key,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive_secs: 0,
            allowed_ips: Vec::new(),
            last_handshake: None,
            rx_bytes: 1000,
            tx_bytes: 2000,
            rx_packets: 1,
            tx_packets: 2,
        });
        peers.len() - 1
    });
    let peer = &mut peers[position];
    peer.preshared_key = update.preshared_key.clone().unwrap_or(peer.preshared_key.take());
    peer.endpoint = update.endpoint.or(peer.endpoint);
    peer.persistent_keepalive_secs = update.persistent_keepalive_secs.unwrap_or(peer.persistent_keepalive_secs);
    if update.replace_allowed_ips {
        peer.allowed_ips.clear();
    }
    for change in &update.allowed_ips {
        peer.allowed_ips.retain(|held| *held != change.prefix);
        if !change.remove {
            peer.allowed_ips.push(change.prefix);
        }
    }
}
