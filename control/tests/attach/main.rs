//! Containers on the network of a host, in namespaces, by packets.

mod failures;
mod leaving;
mod mtu;
mod reach;
mod world;
