//! What happens to our links and routes at the hands of others, as it happens.
//!
//! A watch knows our links from a dump and keeps up with the kernel's notices, so that it can say what changed. It tells
//! of everything, what the daemon itself did included: whoever reads it knows what should be there. Tunnels have no mark,
//! as they go with their process, so it tells of all there are.
//!
//! Where more happens than the watch can read, or the reader does not keep up, notices are lost; the kernel says so, the
//! watch looks again, and the reader gets one [`Event::Overrun`].

use super::link::{RTM_DELLINK, RTM_NEWLINK};
use super::listener::{ADDRESSES_V4, ADDRESSES_V6, Heard, LINKS, Listener, ROUTES_V4, ROUTES_V6, Stop};
use super::request::Reply;
use super::socket::{Exchange, Socket};
use super::{HostError, LinkInfo, LinkKind, Mark, Netlink, Ownership, RouteInfo, address, link, route};
use ipnet::IpNet;
use std::collections::HashMap;
use std::thread;
use tokio::sync::mpsc;

/// Events that wait for the reader; further ones wait in the kernel.
const EVENTS_MAX: usize = 256;

/// Room for notices that wait while the reader does not read: a thousand containers that come at once, each with a dozen
/// notices of 2 KiB.
const RECEIVE_BYTES: usize = 32 * 1024 * 1024;

/// `RTM_DELADDR` of `linux/rtnetlink.h`.
const RTM_DELADDR: u16 = 21;
/// `RTM_DELROUTE`.
const RTM_DELROUTE: u16 = 25;

/// A watch over what carries a mark. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    /// None where no thread listens.
    stop: Option<Stop>,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To a link of ours.
    Link {
        /// Its index.
        index: u32,
        /// Its name, the former one where it changed.
        name: String,
        /// What it is for, as its mark says; `None` for a tunnel, and for one that was left half made.
        object: Option<String>,
        /// What happened.
        change: Change,
    },
    /// So much happened that some of it is not known: look at everything again.
    Overrun,
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It appeared, or got our mark.
    Appeared,
    /// It is gone from this namespace.
    Gone,
    /// Its mark was taken or replaced: it is not ours any more.
    Unmarked,
    /// It was set up (`true`) or down.
    Up(bool),
    /// Its MTU is this.
    Mtu(u32),
    /// It is a port of this bridge of ours, or of none of ours.
    Controller(Option<String>),
    /// It is called this.
    Name(String),
    /// It lost this address.
    AddressGone(IpNet),
    /// The route to this prefix through it, with our protocol number, is gone. Of IPv4 routes that go with their device or
    /// the address that is their source the kernel tells nothing.
    RouteGone(IpNet),
}

impl Watch {
    /// Watches the namespace of `netlink` from now on.
    ///
    /// # Errors
    /// [`HostError`] where the kernel cannot be listened to or asked.
    pub async fn open(netlink: &Netlink, mark: &Mark) -> Result<Self, HostError> {
        let mark = mark.clone();
        netlink.run("watch links", move |_| Self::start(mark, RECEIVE_BYTES)).await?
    }

    /// A watch of a kernel that is played.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn played() -> (mpsc::Sender<Event>, Self) {
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        (tell, Self { events, stop: None })
    }

    /// The next event; `None` where the kernel tells no more.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Opens everything here, in the right namespace, and leaves the rest to a thread.
    fn start(mark: Mark, receive_bytes: usize) -> Result<Self, HostError> {
        const GROUPS: [u32; 5] = [LINKS, ADDRESSES_V4, ADDRESSES_V6, ROUTES_V4, ROUTES_V6];
        let mut listener = Listener::open(&GROUPS, receive_bytes)?;
        let stop = listener.stop();
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let mut known = Known { mark, socket: Socket::open()?, links: HashMap::new() };
        known.look()?;
        let thread = thread::Builder::new().name("watch".into());
        let started = thread.spawn(move || {
            loop {
                let happened = match listener.hear() {
                    Heard::Notices(notices) => notices.iter().flat_map(|notice| known.take(notice)).collect(),
                    Heard::Overrun => match known.look() {
                        Ok(()) => vec![Event::Overrun],
                        Err(_) => break,
                    },
                    Heard::End => break,
                };
                // Waits for the reader, while the kernel keeps what comes.
                if happened.into_iter().any(|event| tell.blocking_send(event).is_err()) {
                    break;
                }
            }
        });
        started.map_err(|error| HostError::io("start a thread", error))?;
        Ok(Self { events, stop: Some(stop) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.iter().for_each(Stop::stop);
    }
}

/// Our links, as they were when last heard of.
struct Known {
    mark: Mark,
    socket: Socket,
    links: HashMap<u32, LinkInfo>,
}

impl Known {
    fn look(&mut self) -> Result<(), HostError> {
        let links = self.socket.ask(link::list())?;
        let links = links.iter().filter_map(LinkInfo::read).filter(|link| is_ours(&self.mark, link));
        self.links = links.map(|link| (link.index, link)).collect();
        Ok(())
    }

    fn take(&mut self, notice: &Reply) -> Vec<Event> {
        // Families of their own, such as bridges, repeat what the unspecified one says.
        let unspecified = notice.body.first() == Some(&0);
        match notice.kind {
            RTM_NEWLINK if unspecified => LinkInfo::read(notice).map(|link| self.take_link(link)).unwrap_or_default(),
            RTM_DELLINK if unspecified => {
                let known = LinkInfo::read(notice).and_then(|link| self.links.remove(&link.index));
                known.map(|link| self.event(&link, Change::Gone)).into_iter().collect()
            }
            RTM_DELADDR => self.take_address(notice).into_iter().collect(),
            RTM_DELROUTE => {
                let gone = route::read_all(std::slice::from_ref(notice));
                let event = |route: RouteInfo| {
                    Some(self.event(self.links.get(&route.device)?, Change::RouteGone(route.prefix)))
                };
                gone.filter_map(event).collect()
            }
            _ => Vec::new(),
        }
    }

    fn take_link(&mut self, link: LinkInfo) -> Vec<Event> {
        let ours = is_ours(&self.mark, &link);
        let Some(was) = self.links.remove(&link.index) else {
            let appeared = ours.then(|| self.event(&link, Change::Appeared));
            if ours {
                self.links.insert(link.index, link);
            }
            return appeared.into_iter().collect();
        };
        if !ours {
            return vec![self.event(&was, Change::Unmarked)];
        }
        let changes = [
            (was.name != link.name).then(|| Change::Name(link.name.clone())),
            (was.up != link.up).then_some(Change::Up(link.up)),
            (was.mtu != link.mtu).then_some(Change::Mtu(link.mtu)),
            (was.controller != link.controller).then(|| {
                let bridge = link.controller.and_then(|index| self.links.get(&index));
                Change::Controller(bridge.map(|bridge| bridge.name.clone()))
            }),
        ];
        let named = LinkInfo { name: was.name, ..link.clone() };
        let events = changes.into_iter().flatten().map(|change| self.event(&named, change)).collect();
        self.links.insert(link.index, link);
        events
    }

    fn take_address(&self, notice: &Reply) -> Option<Event> {
        let index = address::index(notice)?;
        let link = self.links.get(&index)?;
        let gone = address::read_all(std::slice::from_ref(notice), index).pop()?;
        Some(self.event(link, Change::AddressGone(gone.address)))
    }

    fn event(&self, link: &LinkInfo, change: Change) -> Event {
        let object = match self.mark.ownership(link) {
            Ownership::Ours(object) => Some(object.to_owned()),
            Ownership::HalfMade | Ownership::Foreign => None,
        };
        Event::Link { index: link.index, name: link.name.clone(), object, change }
    }
}

fn is_ours(mark: &Mark, link: &LinkInfo) -> bool {
    link.kind == Some(LinkKind::Tun) || mark.ownership(link) != Ownership::Foreign
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{LinkChange, Netns};
    use crate::lab::rights_or_skip;
    use std::time::Duration;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn next(watch: &mut Watch) -> Event {
        timeout(DEADLINE, watch.next()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_others_do_to_ours_is_told_and_what_they_do_to_theirs_is_not() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let netlink = Netlink::open_in(&netns, 2).unwrap();
        let mark = Mark::new("a").unwrap();
        let bridge = netlink.create_bridge("br0").await.unwrap();
        let index = netlink.create_veth("d0", "e0", None).await.unwrap();
        let alias = mark.alias("x/eth0").unwrap();
        let change = async |change| netlink.change_link(index, &change).await.unwrap();
        change(LinkChange { alias: Some(&alias), ..LinkChange::default() }).await;
        let of_bridge = mark.alias("bridge:br0").unwrap();
        netlink.change_link(bridge, &LinkChange { alias: Some(&of_bridge), ..LinkChange::default() }).await.unwrap();
        let mut watch = Watch::open(&netlink, &mark).await.unwrap();

        let foreign = netlink.link("e0").await.unwrap().index;
        netlink.set_mtu(foreign, 1300).await.unwrap();
        netlink.set_up(foreign, true).await.unwrap();
        let address: IpNet = "10.1.0.1/24".parse().unwrap();
        change(LinkChange { up: Some(true), ..LinkChange::default() }).await;
        netlink.add_address(index, address).await.unwrap();
        let route = RouteInfo::new("10.9.0.0/16".parse().unwrap(), index);
        netlink.add_route(&route).await.unwrap();
        netlink.remove_route(route.prefix, index).await.unwrap();
        netlink.remove_address(index, address).await.unwrap();
        change(LinkChange { mtu: Some(1400), ..LinkChange::default() }).await;
        change(LinkChange { controller: Some(bridge), ..LinkChange::default() }).await;
        change(LinkChange { controller: Some(0), ..LinkChange::default() }).await;
        change(LinkChange { up: Some(false), ..LinkChange::default() }).await;
        change(LinkChange { name: Some("d1"), ..LinkChange::default() }).await;
        netlink.change_link(foreign, &LinkChange { alias: Some(&alias), ..LinkChange::default() }).await.unwrap();
        netlink.change_link(foreign, &LinkChange { alias: Some("mine"), ..LinkChange::default() }).await.unwrap();
        netlink.delete_link(index).await.unwrap();

        let event = |name: &str, change| Event::Link {
            index: if name == "e0" { foreign } else { index },
            name: name.into(),
            object: Some("x/eth0".into()),
            change,
        };
        for expected in [
            event("d0", Change::Up(true)),
            event("d0", Change::RouteGone(route.prefix)),
            event("d0", Change::AddressGone(address)),
            event("d0", Change::Mtu(1400)),
            event("d0", Change::Controller(Some("br0".into()))),
            event("d0", Change::Controller(None)),
            event("d0", Change::Up(false)),
            event("d0", Change::Name("d1".into())),
            event("e0", Change::Appeared),
            event("e0", Change::Unmarked),
            event("d1", Change::Gone),
        ] {
            let mut told = next(&mut watch).await;
            // The link-local address that the kernel makes goes when it is set down; the MTU of a bridge follows its ports.
            let by_kernel = |told: &Event| match told {
                Event::Link { name, change, .. } => {
                    name == "br0" || matches!(change, Change::AddressGone(gone) if *gone != address)
                }
                Event::Overrun => false,
            };
            while by_kernel(&told) {
                told = next(&mut watch).await;
            }
            assert_eq!(told, expected);
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_not_read_says_what_it_missed() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let netlink = Netlink::open_in(&netns, 2).unwrap();
        let mark = Mark::new("a").unwrap();
        let index = netlink.create_veth("d0", "e0", None).await.unwrap();
        let alias = mark.alias("x/eth0").unwrap();
        netlink.change_link(index, &LinkChange { alias: Some(&alias), ..LinkChange::default() }).await.unwrap();
        let mut watch = netns.run_in(|| Watch::start(mark, 64 * 1024)).unwrap().unwrap();
        // More than the queue of events and the receive buffer hold together.
        for number in 0..2_000 {
            netlink.set_mtu(index, 1300 + number % 2).await.unwrap();
        }
        netlink.set_mtu(index, 1234).await.unwrap();
        let mut told = 0;
        loop {
            match next(&mut watch).await {
                Event::Overrun => break,
                Event::Link { change: Change::Mtu(1234), .. } => panic!("{told} events and nothing was missed"),
                _ => told += 1,
            }
        }
        // From there on it is up to date.
        netlink.set_mtu(index, 1235).await.unwrap();
        loop {
            match next(&mut watch).await {
                Event::Link { change: Change::Mtu(1235), .. } => break,
                // Where more was lost just before, it has looked again, and says so.
                Event::Overrun => break,
                other => drop(other),
            }
        }
    }
}
