//! Containers and services that come and go: one worker after another of these on each node, each with services of its own,
//! which it takes down with all that is in them before it begins anew.

use super::node::{Caller, Node, QUARANTINE_SECS};
use super::scene::{Side, attach, detach};
use super::{Broken, Deed, Run, lock};
use crate::names;
use ginnel_control::ipc::wire::{
    AttachContainer, AttachHandle, ObjectKind, Objects, OverlayMode, PortProtocol, PublishedPort, Request, Response,
};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::traffic::wait_reachable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most containers at once, of one worker.
const CONTAINERS_MAX: usize = 4;

/// What the end of a container gets to be noticed, counted from when its daemon answers.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// What a container gets to reach another, with something going wrong at the same time.
const REACHES_WITHIN: Duration = Duration::from_secs(40);

/// What a name server gets to answer while its daemon may be away.
const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// The addresses of a node that are in use, and those that were.
#[derive(Debug, Default)]
pub struct Addresses {
    held: Mutex<BTreeMap<IpAddr, Holding>>,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
enum Holding {
    Held,
    /// No earlier than this.
    GivenBack(Instant),
}

impl Addresses {
    /// Somebody was given this address: nobody else has it, and it has rested.
    fn take(&self, node: &Node, ip: IpAddr) -> Result<(), Broken> {
        let before = lock(&self.held).insert(ip, Holding::Held);
        // A second is what the daemon rounds by.
        let rest = Duration::from_secs(QUARANTINE_SECS - 1);
        match before {
            Some(Holding::Held) => Err(Broken(format!("{ip} of {} was given out twice", node.name))),
            Some(Holding::GivenBack(at)) if at.elapsed() < rest => {
                Err(Broken(format!("{ip} of {} was given out again after {:?}", node.name, at.elapsed())))
            }
            _ => Ok(()),
        }
    }

    /// It is about to be given back.
    fn give_back(&self, ip: IpAddr) {
        lock(&self.held).insert(ip, Holding::GivenBack(Instant::now()));
    }
}

/// A worker on one node.
pub struct Churn<'a> {
    run: &'a Run,
    side: &'a Side,
    addresses: &'a Addresses,
    number: u16,
    rng: StdRng,
    caller: Caller<'a>,
}

/// A container that is attached.
struct Guest {
    container: Container,
    addresses: Vec<IpAddr>,
    fenced: bool,
    name: Option<String>,
}

impl<'a> Churn<'a> {
    /// The worker with that number on `side`.
    pub fn new(run: &'a Run, side: &'a Side, addresses: &'a Addresses, number: u16, seed: u64) -> Self {
        Self { run, side, addresses, number, rng: StdRng::seed_from_u64(seed), caller: side.node.caller() }
    }

    /// Works until no more changes are to be begun.
    pub fn work(mut self) -> Result<(), Broken> {
        while let Some(_change) = self.run.change() {
            self.round()?;
            // No connection is held over a pause.
            self.caller = self.side.node.caller();
            let pause = Duration::from_millis(self.rng.random_range(0..300));
            self.run.rest(pause);
        }
        Ok(())
    }

    fn round(&mut self) -> Result<(), Broken> {
        let modes = [OverlayMode::Auto, OverlayMode::Shared, OverlayMode::Isolated, OverlayMode::Dedicated];
        let which = self.rng.random_range(0..modes.len());
        let (service, mode) = (format!("churn-{}-{which}", self.number), modes[which]);
        self.caller.call(&Request::SetupServiceOverlay { service: service.clone(), mode })?;
        let mut guests = Vec::new();
        for number in 0..self.rng.random_range(1..=CONTAINERS_MAX) {
            guests.push(self.attach(&service, number)?);
        }
        if mode == OverlayMode::Auto && !guests[0].fenced && self.rng.random_bool(0.3) {
            let end = guests[0].container.end(guests[0].addresses[0]);
            self.reach(&end)?;
        }
        if self.rng.random_bool(0.3) {
            self.reserve(&service)?;
        }
        while !guests.is_empty() {
            let guest = guests.swap_remove(self.rng.random_range(0..guests.len()));
            self.detach(guest)?;
        }
        self.caller.call(&Request::TeardownServiceOverlay { service })?;
        Ok(())
    }

    fn attach(&mut self, service: &str, number: usize) -> Result<Guest, Broken> {
        let container = Container::start()?;
        let port = 20_000 + self.number * 100 + u16::try_from(number).unwrap_or_default();
        let publish = PublishedPort { host_port: port, container_port: 80, protocol: PortProtocol::Tcp, host_ip: None };
        let wishes = AttachContainer {
            join_global: self.rng.random_bool(0.3),
            isolation_network: self.rng.random_bool(0.2).then(|| format!("net-{}", self.number)),
            publish: if self.rng.random_bool(0.3) { vec![publish] } else { Vec::new() },
            ..AttachContainer::new(AttachHandle::LinuxPid { pid: container.pid() }, service)
        };
        let addresses = attach(&mut self.caller, &wishes)?;
        for ip in &addresses {
            self.addresses.take(&self.side.node, *ip)?;
        }
        self.run.did(Deed::Attach, 1);
        let mut guest = Guest { container, addresses, fenced: wishes.isolation_network.is_some(), name: None };
        if self.rng.random_bool(0.5) {
            let name = format!("c{number}.{service}.local");
            let ip = guest.addresses[0];
            self.caller.call(&Request::RegisterDns { name: name.clone(), ip })?;
            self.look_up(&name, Some(ip))?;
            guest.name = Some(name);
        }
        Ok(guest)
    }

    fn detach(&mut self, mut guest: Guest) -> Result<(), Broken> {
        if let Some(name) = guest.name.take() {
            self.caller.call(&Request::UnregisterDns { name: name.clone() })?;
            self.look_up(&name, None)?;
        }
        // From here on they may be given back at any time.
        guest.addresses.iter().for_each(|ip| self.addresses.give_back(*ip));
        let pid = guest.container.pid();
        if self.rng.random_bool(0.3) {
            guest.container.kill();
            self.run.did(Deed::Death, 1);
            // Sometimes it is detached all the same.
            if self.rng.random_bool(0.7) {
                return self.wait_noticed(pid);
            }
        }
        self.caller.call(&detach(pid))?;
        Ok(())
    }

    fn wait_noticed(&mut self, pid: u32) -> Result<(), Broken> {
        let Self { run, side, caller, .. } = self;
        let key = format!("linux_pid:{pid}");
        let what = format!("daemon {} notices the end of {key}", side.node.name);
        run.within(NOTICED_WITHIN, &what, || {
            // The list comes from a daemon that has started.
            let Objects::Attachments(items) = caller.list(ObjectKind::Attachments)? else { return Ok(None) };
            Ok(items.iter().any(|item| item.attachment == key).then(|| "it is attached".into()))
        })
    }

    /// A container reaches the one that stays.
    fn reach(&mut self, end: &ginnel_control::lab::traffic::End) -> Result<(), Broken> {
        let far = self.side.resident(0);
        let mut tries = 0;
        loop {
            match wait_reachable(end, &far, REACHES_WITHIN) {
                Ok(_) => return Ok(()),
                // Also a program that was stopped meanwhile.
                Err(_) if tries < 2 => tries += 1,
                Err(error) => return Err(Broken(format!("{} on {}: {error}", end.ip, self.side.node.name))),
            }
        }
    }

    /// An address is set aside and given back.
    fn reserve(&mut self, service: &str) -> Result<(), Broken> {
        let owner = Some(format!("soak-{}", self.number));
        let allocate = Request::AllocateIp { service: service.to_owned(), join_global: false, owner: owner.clone() };
        let Response::Ip { ip } = self.caller.call(&allocate)? else {
            return Err(Broken("allocate_ip is answered without an address".into()));
        };
        self.addresses.take(&self.side.node, ip)?;
        self.addresses.give_back(ip);
        self.caller.call(&Request::ReleaseIp { ip, owner })?;
        Ok(())
    }

    /// The name has this address, or none.
    fn look_up(&mut self, name: &str, wanted: Option<IpAddr>) -> Result<(), Broken> {
        let server = SocketAddr::new(self.side.ip, 53);
        let what = format!("{name} is looked up on {}", self.side.node.name);
        let query = names::query(name, 1);
        let failed = |error: std::io::Error| Broken(format!("{what}: {error}"));
        let socket = self.side.node.netns.run_in(|| UdpSocket::bind("0.0.0.0:0"))?.map_err(failed)?;
        socket.set_read_timeout(Some(Duration::from_millis(300))).map_err(failed)?;
        self.run.did(Deed::Lookup, 1);
        self.run.within(NAMED_WITHIN, &what, || {
            let mut buffer = [0; 1_500];
            let answer = socket.send_to(&query, server).and_then(|_| socket.recv(&mut buffer));
            let bytes = match answer {
                Ok(len) => &buffer[..len],
                // It is away at the moment.
                Err(error) => return Ok(Some(error.to_string())),
            };
            let (code, answers) = (bytes.get(3).map(|flags| flags & 0xf), bytes.get(7).copied());
            let right = match wanted {
                Some(IpAddr::V4(ip)) => {
                    code == Some(0) && answers == Some(1) && bytes.windows(4).any(|part| part == ip.octets())
                }
                _ => code == Some(3) && answers == Some(0),
            };
            if right { Ok(None) } else { Err(Broken(format!("{what}: code {code:?}, {answers:?} answers"))) }
        })
    }
}
