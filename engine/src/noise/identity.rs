//! What all peers of a worker share: the private key, and the defence against floods of handshakes.

use super::budget::Budget;
use super::cookie::Maker;
use super::handshake::{Local, MACS_BYTES};
use super::hash::{MAC_BYTES, mac, same};
use super::random::{Random, Seed};
use super::stamp::Stamps;
use crate::drops::DropReason;
use crate::key::PrivateKey;
use crate::tick::Tick;
use crate::wire::message::COOKIE_BYTES;
use std::net::SocketAddr;
use std::sync::Arc;

/// See the module.
pub struct Identity {
    /// Our end of every handshake.
    pub(super) local: Arc<Local>,
    /// Of the device.
    pub(super) stamps: Arc<Stamps>,
    /// Forked for every peer.
    pub(super) random: Random,
    cookies: Maker,
    budget: Budget,
}

impl Identity {
    /// The identity with this key. `seed` and `stamps` are those of the device, `random` of nobody else.
    pub(super) fn new(key: &PrivateKey, seed: &Seed, mut random: Random, stamps: &Arc<Stamps>) -> Self {
        let local = Local::new(key);
        Self {
            cookies: Maker::new(seed.key("cookies"), local.cookie_key),
            budget: Budget::new(random.bytes()),
            local: Arc::new(local),
            stamps: Arc::clone(stamps),
            random,
        }
    }

    /// As [`crate::peer::noise::Noise::screen`].
    pub(super) fn screen(
        &mut self,
        now: Tick,
        from: SocketAddr,
        message: &[u8],
        pass: Option<&mut bool>,
        reply: &mut [u8; COOKIE_BYTES],
    ) -> Result<usize, DropReason> {
        let (body, macs) = message.split_last_chunk::<MACS_BYTES>().ok_or(DropReason::InboundMalformed)?;
        let (mac1, mac2) = macs.split_first_chunk::<MAC_BYTES>().ok_or(DropReason::InboundMalformed)?;
        let sender = *body.get(4..).and_then(<[u8]>::first_chunk).ok_or(DropReason::InboundMalformed)?;
        if !same(&mac(&self.local.mac_key, &[body]), mac1) {
            return Err(DropReason::InboundBadMac);
        }
        if pass.is_some_and(std::mem::take) || self.budget.unproven(now) {
            return Ok(0);
        }
        self.cookies.refresh(now);
        let proven = *mac2 != [0; MAC_BYTES] && self.cookies.proves(from, &message[..body.len() + MAC_BYTES], mac2);
        if proven {
            let passes = self.budget.proven(now, from.ip());
            return if passes { Ok(0) } else { Err(DropReason::InboundHandshakeOverload) };
        }
        if !self.budget.cookie(now) {
            return Err(DropReason::InboundHandshakeOverload);
        }
        let random = self.random.bytes();
        let nonce = random.first_chunk().unwrap_or(&[0; 24]);
        self.cookies.reply(from, sender, mac1, nonce, reply);
        Ok(COOKIE_BYTES)
    }
}
