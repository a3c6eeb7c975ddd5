//! Containers on the network of a host, in namespaces, by packets.

mod reach;
mod world;
