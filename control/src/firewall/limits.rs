//! Bounds of the firewall, each with its reason.

/// Longest name of an instance: what keeps table names and comments readable, far below the kernel's 255 bytes.
pub const INSTANCE_BYTES_MAX: usize = 64;

/// Longest name of a container: a hex digest twice over.
pub const CONTAINER_ID_BYTES_MAX: usize = 128;

/// Cluster prefixes of both families.
pub const PREFIXES_MAX: usize = 64;

/// Tunnels and bridges: a few for each service of a node.
pub const INTERFACES_MAX: usize = 4_096;

/// Containers of a node: eight times what the largest nodes run, and what a /18 of addresses holds.
pub const CONTAINERS_MAX: usize = 16_384;

/// Interfaces of a container towards the host: service and global, and two to spare.
pub const CONTAINER_LINKS_MAX: usize = 4;

/// Addresses of a container: two networks, two families, and room.
pub const CONTAINER_ADDRESSES_MAX: usize = 8;

/// Members of isolation networks that are not containers here: all of a cluster may be declared.
pub const MEMBERS_MAX: usize = 65_536;

/// Ranges among them: subnets of services. So few that they fit one batch together with their removal.
pub const MEMBER_RANGES_MAX: usize = 16_384;

/// Published ports: more than a host has for one protocol.
pub const PUBLICATIONS_MAX: usize = 65_536;

/// Services of the host itself.
pub const SERVICES_MAX: usize = 256;

/// Changes made in one batch: one attach with all its ports, or the teardown of a large service.
pub const CHANGES_MAX: usize = 4_096;

/// How often a batch is tried again because somebody else changed the ruleset meanwhile. A try takes well below a
/// millisecond; whoever loses this often meets a program in a loop.
pub const COMMIT_TRIES_MAX: u32 = 32;

/// How often a list is read again that changed while it was read.
pub const LIST_TRIES_MAX: u32 = 32;

/// Longest list taken from the kernel, in objects: chains or rules of the largest rulesets known are tens of thousands.
pub const LIST_OBJECTS_MAX: usize = 262_144;

/// Addresses and ports whose connections wait to be ended. One walk ends them all; beyond this, whoever comes does it.
pub const ENDINGS_MAX: usize = 65_536;

/// Connections looked at in one list: the largest tables in use.
pub const CONNECTIONS_MAX: usize = 4_194_304;

/// Chains of others in which an opening may be made.
pub const OPENINGS_MAX: usize = 64;
