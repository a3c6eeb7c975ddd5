//! What the main daemon tells about this node before anything is set up. In memory only: it is told again at each start.

use ginnel_engine::key::PublicKey;

/// Facts from `set_local_node_id` and `set_local_wg_pubkey`.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Number of the node in the cluster, once told.
    pub(super) node_id: Option<u64>,
    /// The key the cluster knows this node by, once told; not validated.
    pub(super) advertised_key: Option<String>,
}

impl Settings {
    /// Warns where the cluster knows this node by a key it does not have: no peer could complete a handshake then.
    pub(super) fn check_advertised(&self, own: Option<PublicKey>) {
        if let (Some(advertised), Some(own)) = (&self.advertised_key, own)
            && PublicKey::from_base64(advertised) != Ok(own)
        {
            tracing::warn!(%advertised, %own, "the cluster advertises another key than this node has: peers need the node's own");
        }
    }
}
