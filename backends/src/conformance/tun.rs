//! What a [`Tun`] promises: what the host's stack sends can be read, what is written reaches it, superpackets are told by
//! their metadata, and a refusal says what to do.
//!
//! Most tests put a mirror behind the interface: it swaps source and destination of every packet for [`far`] and writes
//! it back, so that the host talks to itself through the port under test. Checksums survive that, complete or not.

use super::{ATTEMPTS, Family, Promise, offloads_off, offloads_on};
use crate::mem::packet::{self, Flow};
use ginnel_engine::frame::TunBatch;
use ginnel_engine::port::{Offload, OffloadState, Offloads, Stall, Transport, Tun, TunRefusal, UnitMeta};
use ginnel_engine::wire::ip;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A host with a TUN interface.
pub trait TunLab {
    /// The port under test.
    type Tun: Tun;

    /// An interface of the host that is up, has the addresses [`near`], and leads to [`far`].
    fn create(&mut self, mtu: u16, offloads: Arc<Offloads>) -> Self::Tun;

    /// Gives the interface another MTU.
    fn set_mtu(&mut self, tun: &mut Self::Tun, mtu: u16);

    /// Takes the interface down, or up again.
    fn set_up(&mut self, tun: &mut Self::Tun, up: bool);

    /// Removes the interface while the queue is still open.
    fn remove(&mut self, tun: &mut Self::Tun);

    /// The host sends datagrams of `bytes` each from [`near`] to [`far`], as superpackets where the interface has them;
    /// `payload` has them end to end.
    fn send_udp(&mut self, tun: &mut Self::Tun, family: Family, payload: &[u8], bytes: u16);

    /// What the host received on [`SINK`] of [`near`] since the last call.
    fn received_udp(&mut self, tun: &mut Self::Tun, family: Family) -> Vec<Vec<u8>>;

    /// The host opens a connection from [`near`] to [`SINK`] of [`far`], which the mirror makes one to itself, and sends
    /// `stream`.
    fn send_tcp(&mut self, tun: &mut Self::Tun, family: Family, stream: &[u8]);

    /// What arrived of the stream so far.
    fn received_tcp(&mut self, tun: &mut Self::Tun) -> Vec<u8>;
}

/// The port of the host's sockets that wait for something.
pub const SINK: u16 = 5_000;

/// The address of the host on the interface.
#[must_use]
pub fn near(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 111, 0, 1]),
        Family::V6 => IpAddr::from([0xfd00, 0x111, 0, 0, 0, 0, 0, 1]),
    }
}

/// An address behind the interface.
#[must_use]
pub fn far(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 111, 0, 2]),
        Family::V6 => IpAddr::from([0xfd00, 0x111, 0, 0, 0, 0, 0, 2]),
    }
}

/// Every promise of the suite, by name.
#[must_use]
pub fn promises<L: TunLab>() -> [Promise<L>; 8] {
    [
        ("mtu is told", mtu_is_told),
        ("nothing to read", nothing_to_read),
        ("datagrams both ways", datagrams_both_ways),
        ("streams both ways", streams_both_ways),
        ("superpackets are taken or refused as such", superpackets_are_taken_or_refused_as_such),
        ("partial checksums are taken", partial_checksums_are_taken),
        ("refusals are no end", refusals_are_no_end),
        ("a removed interface is the end", a_removed_interface_is_the_end),
    ]
}

/// The MTU is told, and told anew after a change.
fn mtu_is_told(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    assert_eq!(tun.mtu(), 1_420);
    lab.set_mtu(&mut tun, 1_300);
    assert_eq!(tun.mtu(), 1_300);
}

/// Where the host sends nothing, nothing is read.
fn nothing_to_read(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    drain(&mut tun);
}

/// Datagrams of the host come back to it, with and without superpackets.
fn datagrams_both_ways(lab: &mut impl TunLab) {
    for offloads in [offloads_on(), offloads_off()] {
        let mut tun = lab.create(1_420, Arc::clone(&offloads));
        for family in Family::BOTH {
            for (len, bytes) in [(1, 1), (1_372, 1_372), (10_000, 1_000), (60_000, 1_300)] {
                let payload = packet::pattern(len, 1);
                lab.send_udp(&mut tun, family, &payload, bytes);
                let want: Vec<_> = payload.chunks(usize::from(bytes)).map(<[u8]>::to_vec).collect();
                let mut got = Vec::new();
                reflect(lab, &mut tun, |lab, tun| {
                    got.extend(lab.received_udp(tun, family));
                    got.len() >= want.len()
                });
                assert_eq!(got, want, "{family:?}, {len} bytes in datagrams of {bytes}");
            }
        }
        assert_offload(&offloads, Offload::TunUdp);
    }
}

/// A stream of the host comes back to it, with and without superpackets.
fn streams_both_ways(lab: &mut impl TunLab) {
    for offloads in [offloads_on(), offloads_off()] {
        for family in Family::BOTH {
            let mut tun = lab.create(1_420, Arc::clone(&offloads));
            let stream = packet::pattern(1_000_000, 2);
            lab.send_tcp(&mut tun, family, &stream);
            reflect(lab, &mut tun, |lab, tun| lab.received_tcp(tun).len() >= stream.len());
            assert!(lab.received_tcp(&mut tun) == stream, "{family:?}: the stream came back changed");
            lab.remove(&mut tun);
        }
        assert_offload(&offloads, Offload::TunTcp);
    }
}

/// A superpacket is taken whole, or refused as one, and then its packets are taken singly.
fn superpackets_are_taken_or_refused_as_such(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    for family in Family::BOTH {
        let payload = packet::pattern(5_100, 4);
        let (unit, meta) = packet::udp_super(inward(family), &payload, 1_000);
        match tun.send(&unit, &meta) {
            Ok(()) => {}
            Err(refusal) => {
                assert_eq!(refusal, TunRefusal::Superpacket);
                assert!(!tun.takes_superpackets(Transport::Udp), "what was refused is still asked for");
                for packet in packet::cut(&unit, &meta) {
                    assert_eq!(tun.send(&packet, &UnitMeta::default()), Ok(()));
                }
            }
        }
        let mut got = Vec::new();
        reflect(lab, &mut tun, |lab, tun| {
            got.extend(lab.received_udp(tun, family));
            got.concat().len() >= payload.len()
        });
        assert_eq!(got, payload.chunks(1_000).map(<[u8]>::to_vec).collect::<Vec<_>>());
    }
}

/// A packet whose checksum the host is to complete is as good as one that has it.
fn partial_checksums_are_taken(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    for family in Family::BOTH {
        let payload = packet::pattern(333, 5);
        let (unit, meta) = packet::udp_super(inward(family), &payload, 1_000);
        assert_eq!(tun.send(&unit, &UnitMeta { gso: None, ..meta }), Ok(()));
        assert_eq!(tun.send(&packet::udp(inward(family), &payload), &UnitMeta::default()), Ok(()));
        let mut got = Vec::new();
        reflect(lab, &mut tun, |lab, tun| {
            got.extend(lab.received_udp(tun, family));
            got.len() >= 2
        });
        assert_eq!(got, [payload.clone(), payload]);
    }
}

/// What is no packet is refused as one, and so is everything while the interface is down. Neither ends anything.
fn refusals_are_no_end(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    let packet = packet::udp(inward(Family::V4), b"hello");
    assert_eq!(tun.send(&[0; 40], &UnitMeta::default()), Err(TunRefusal::Packet));
    lab.set_up(&mut tun, false);
    assert_eq!(tun.send(&packet, &UnitMeta::default()), Err(TunRefusal::Packet));
    drain(&mut tun);
    lab.set_up(&mut tun, true);
    assert_eq!(tun.send(&packet, &UnitMeta::default()), Ok(()));
    let mut got = Vec::new();
    reflect(lab, &mut tun, |lab, tun| {
        got.extend(lab.received_udp(tun, Family::V4));
        !got.is_empty()
    });
    assert_eq!(got, [b"hello"]);
}

/// A removed interface is the end.
fn a_removed_interface_is_the_end(lab: &mut impl TunLab) {
    let mut tun = lab.create(1_420, offloads_on());
    lab.remove(&mut tun);
    let mut batch = TunBatch::new();
    for _ in 0..ATTEMPTS {
        batch.clear();
        match tun.recv(&mut batch) {
            Ok(_) => {}
            Err(Stall::Closed(_)) => return,
            Err(Stall::Empty) => panic!("a removed interface is only empty"),
        }
    }
    panic!("there is no end to what is read");
}

/// Reads until there is nothing: a stack may announce itself when an interface comes up.
fn drain(tun: &mut impl Tun) {
    let mut batch = TunBatch::new();
    for _ in 0..ATTEMPTS {
        batch.clear();
        if let Err(stall) = tun.recv(&mut batch) {
            assert_eq!(stall, Stall::Empty);
            assert!(batch.is_empty());
            return;
        }
    }
    panic!("there is no end to what is read");
}

/// A flow from behind the interface to the host's [`SINK`].
fn inward(family: Family) -> Flow {
    Flow { from: SocketAddr::new(far(family), 4_000), to: SocketAddr::new(near(family), SINK) }
}

fn assert_offload(offloads: &Offloads, offload: Offload) {
    let state = offloads.state(offload);
    assert_ne!(state, OffloadState::Untested, "{offload:?} was never used");
}

/// Mirrors what the host sends until `done`.
fn reflect<L: TunLab>(lab: &mut L, tun: &mut L::Tun, mut done: impl FnMut(&mut L, &mut L::Tun) -> bool) {
    let mut batch = TunBatch::new();
    let mut idle = 0;
    while !done(lab, tun) {
        batch.clear();
        match tun.recv(&mut batch) {
            Ok(_) => idle = 0,
            Err(Stall::Empty) => idle += 1,
            Err(Stall::Closed(errno)) => panic!("the interface closed with errno {errno}"),
        }
        assert!(idle < ATTEMPTS, "what the host sent does not come back");
        for index in 0..batch.len() {
            let (meta, len, bytes) = batch.unit(index);
            mirror(tun, &meta, &mut bytes[..len]);
        }
        if batch.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Writes one unit back with its addresses swapped.
fn mirror(tun: &mut impl Tun, meta: &UnitMeta, unit: &mut [u8]) {
    let destination = ip::destination(unit);
    if !Family::BOTH.iter().any(|&family| destination == Some(far(family))) {
        // The stack's own chatter.
        return;
    }
    if let Some(gso) = meta.gso {
        assert!(tun.takes_superpackets(gso.transport), "a superpacket without its offload");
        assert!(meta.partial_checksum.is_some(), "a superpacket with a complete checksum");
    }
    let packets = packet::cut(unit, meta);
    assert!(packets.iter().all(|packet| packet::is_sound(packet)), "the metadata does not lead to sound packets");
    swap_addresses(unit);
    match tun.send(unit, meta) {
        Ok(()) => {}
        Err(TunRefusal::Superpacket) => {
            for packet in packet::cut(unit, meta) {
                assert_eq!(tun.send(&packet, &UnitMeta::default()), Ok(()));
            }
        }
        Err(TunRefusal::Packet) => panic!("a packet of the host's own is refused"),
    }
}

fn swap_addresses(unit: &mut [u8]) {
    let (at, bytes) = if unit[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (from, to) = unit[at..at + 2 * bytes].split_at_mut(bytes);
    from.swap_with_slice(to);
}
