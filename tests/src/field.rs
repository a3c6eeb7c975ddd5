//! Parties on the nodes of a laboratory.

use crate::party::{Party, PartyOptions};
use crate::wait::PATIENCE;
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::traffic::{self, Amount, End, TcpPlan};
use ginnel_control::lab::{Lab, LabOptions, Node};

/// One party for each node. Dropping it ends and removes everything.
pub struct Field {
    /// The parties, in the order of their numbers.
    pub parties: Vec<Party>,
    /// The laboratory below them.
    pub lab: Lab,
    /// Of the programs.
    pub keeper: Keeper,
}

impl Field {
    /// A field with an underlay of the usual MTU.
    #[must_use]
    pub fn of(options: &[PartyOptions]) -> Self {
        Self::with_mtu(1_500, options)
    }

    /// A field with an underlay of this MTU.
    ///
    /// # Panics
    /// Where it cannot be built.
    #[must_use]
    pub fn with_mtu(mtu: u32, options: &[PartyOptions]) -> Self {
        Self::build(LabOptions { nodes: options.len(), mtu }, options)
    }

    /// A field with one more node than parties, the last, for a bystander.
    ///
    /// # Panics
    /// Where it cannot be built.
    #[must_use]
    pub fn with_bystander(options: &[PartyOptions]) -> (Self, Node) {
        let field = Self::build(LabOptions { nodes: options.len() + 1, mtu: 1_500 }, options);
        let bystander = field.lab.nodes()[options.len()].clone();
        (field, bystander)
    }

    fn build(lab: LabOptions, options: &[PartyOptions]) -> Self {
        let lab = Lab::build(lab).expect("a laboratory");
        let keeper = Keeper::default();
        let start = |(options, node)| Party::start(options, node, &keeper);
        let parties = options.iter().zip(lab.nodes()).map(start).collect();
        Self { parties, lab, keeper }
    }

    /// The first two parties.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn pair(&self) -> [&Party; 2] {
        let [a, b, ..] = self.parties.as_slice() else { panic!("a field has two parties at least") };
        [a, b]
    }

    /// As [`Field::pair`], to be changed.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn pair_mut(&mut self) -> [&mut Party; 2] {
        let [a, b, ..] = self.parties.as_mut_slice() else { panic!("a field has two parties at least") };
        [a, b]
    }

    /// The first two parties, already peers of each other: the first knows where the second is, the second waits for it.
    #[must_use]
    pub fn introduced(&self, outer_v6: bool) -> [&Party; 2] {
        let [a, b] = self.pair();
        introduce(a, b, outer_v6);
        [a, b]
    }
}

/// Makes two parties peers. Only `near` knows where the other is, so only `near` can begin.
pub fn introduce(near: &Party, far: &Party, outer_v6: bool) {
    far.set_peer(&near.entry());
    near.set_peer(&far.entry().at(far.endpoint(outer_v6)));
}

/// Waits until datagrams go from `near` to `far` and back through the tunnel, in both families.
///
/// # Panics
/// Where they do not in good time.
#[track_caller]
pub fn wait_connected(near: &Party, far: &Party) {
    for v6 in [false, true] {
        if let Err(error) = traffic::wait_reachable(&near.inner(v6), &far.inner(v6), PATIENCE) {
            let (near, far) = (near.last_words(), far.last_words());
            panic!("{error}\n--- near\n{near}\n--- far\n{far}");
        }
    }
}

/// Sends `bytes` over TCP through the tunnel, every one checked.
///
/// # Panics
/// Where one is missing or wrong.
#[track_caller]
pub fn transfer(from: &Party, to: &Party, v6: bool, bytes: u64) {
    transfer_between(&from.inner(v6), &to.inner(v6), bytes);
}

/// As [`transfer`], between any ends.
///
/// # Panics
/// Where a byte is missing or wrong.
#[track_caller]
pub fn transfer_between(from: &End, to: &End, bytes: u64) {
    let plan = TcpPlan { streams: 2, amount: Amount::Bytes(bytes / 2), verify: true };
    match traffic::tcp(from, to, &plan) {
        Ok(report) => assert_eq!(report.bytes, bytes / 2 * 2),
        Err(error) => panic!("{} to {}: {error}", from.ip, to.ip),
    }
}
