//! The firewall, seen from the packets: every rule shown to do what it is for, and nothing more.

mod connections;
mod isolation;
mod probe;
mod publishing;
mod sources;
mod town;
