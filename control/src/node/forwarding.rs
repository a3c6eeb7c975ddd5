//! Forwarding, and the settings of the kernel it takes: written down before they are changed, and put back when we go.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::ipc::health::ConditionCode;
use crate::ipc::wire::{Event, Severity};
use crate::state::{Sysctls, Transaction};
use std::sync::atomic::Ordering;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Has the host forward packets from now on, if it does not yet.
    pub(super) async fn forward(&self) -> Result<(), NodeError> {
        if self.forwards.load(Ordering::Acquire) {
            return Ok(());
        }
        self.see_to_forwarding().await?;
        self.forwards.store(true, Ordering::Release);
        Ok(())
    }

    /// Looks after the settings where the host forwards for us: devices come, and others change what they please.
    pub(super) async fn go_on_forwarding(&self) {
        if self.forwards.load(Ordering::Acquire)
            && let Err(error) = self.see_to_forwarding().await
        {
            tracing::warn!(%error, "settings for forwarding could not be looked after; it is tried again");
        }
    }

    async fn see_to_forwarding(&self) -> Result<(), NodeError> {
        let mut ledger = self.sysctls.lock().await;
        let mut noted = ledger.clone();
        if self.kit.host.note_forwarding(&mut noted).map_err(NodeError::Forward)? {
            self.kit.commit(Transaction::new().put(Sysctls { ledger: noted.clone() })).await?;
            *ledger = noted;
        }
        self.kit.host.write_settings(&ledger).map_err(NodeError::Forward)
    }

    /// Puts the settings back that are still ours.
    pub(super) async fn stop_forwarding(&self) {
        self.forwards.store(false, Ordering::Release);
        let mut ledger = self.sysctls.lock().await;
        if ledger.records().is_empty() {
            return;
        }
        if let Err(error) = self.kit.host.restore_settings(&mut ledger) {
            tracing::error!(%error, "settings of the kernel could not be put back; the next start tries again");
        }
        let transaction = match ledger.records().is_empty() {
            true => Transaction::new().delete::<Sysctls>(""),
            false => Transaction::new().put(Sysctls { ledger: ledger.clone() }),
        };
        self.kit.take_back(transaction).await;
    }

    /// Looks how the firewall is, now and then: what was mended since the last look is told, and what stands in its way.
    pub(super) async fn look_at_firewall(&self, heals_before: u64) -> u64 {
        let Some((health, _)) = self.kit.host.firewall().await else { return heals_before };
        if health.heals > heals_before {
            let by = health.last_heal.as_ref().and_then(|heal| heal.culprit.clone());
            let found = by.map_or_else(|| "changed by others".to_owned(), |culprit| format!("changed by {culprit}"));
            self.kit.events.publish(Event::Drift { object: "firewall".into(), found, mended: health.in_place });
        }
        for finding in &health.findings {
            let code = ConditionCode::FirewallHindered;
            self.board.raise(code, Some(finding.code), Severity::Warning, &finding.detail, finding.remedy.as_deref());
        }
        self.board.retain(ConditionCode::FirewallHindered, |subject| {
            health.findings.iter().any(|finding| Some(finding.code) == subject)
        });
        health.heals
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    pub(super) fn note_fenced(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    pub(super) fn sweep_later(&self) {
        self.sweep_wanted.store(true, Ordering::Release);
    }

    pub(super) fn firewall_is_well(&self) {
        self.board.clear(ConditionCode::FirewallFailed, None);
    }

    pub(super) fn firewall_failed(&self, error: &NodeError) {
        tracing::error!(%error, "the firewall is not as it should be; it is tried again");
        self.fence_wanted.store(true, Ordering::Release);
        let hint = "see the log; containers that are to be fenced cannot be attached until it works";
        self.board.raise(ConditionCode::FirewallFailed, None, Severity::Error, &error.to_string(), Some(hint));
    }
}
