//! The firewall, seen from the packets: every rule shown to do what it is for, and nothing more.

mod connections;
mod healing;
mod isolation;
mod others;
mod probe;
mod publishing;
mod sources;
mod town;
