//! Which faults come when: a function of the seed and nothing else.
//!
//! Kinds are dealt like cards, a shuffled deck after the other, so that a run of some minutes meets each of them about
//! equally often. Not here: how a fault is made ([`crate::faults`]).

use std::time::Duration;

use crate::dice::Dice;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A worker is killed.
    KillWorker,
    /// A worker is asked to stop.
    TermWorker,
    /// A worker stands still for longer than its lease, and goes on.
    StopWorker,
    /// A gateway is killed.
    KillGateway,
    /// A gateway is asked to stop.
    TermGateway,
    /// A gateway stands still, and goes on.
    StopGateway,
    /// The leader of the maintenance is killed.
    KillLeader,
    /// Redis is killed and comes back with its data.
    RestartRedis,
    /// Redis is killed and comes back empty.
    EmptyRedis,
    /// All keys are removed.
    FlushRedis,
    /// A user's stream is removed.
    DeleteStream,
    /// The groups of a user's stream are removed.
    DestroyGroups,
    /// Redis stands still, and goes on.
    StopRedis,
    /// Nothing comes from Redis for a while.
    StallRedis,
    /// All connections to Redis are reset.
    ResetRedis,
    /// Publishes are done, and their replies lost.
    LosePublish,
    /// Postgres goes down at once and comes back.
    RestartPostgres,
    /// Postgres stands still, and goes on.
    StopPostgres,
    /// Nothing comes from Postgres for a while.
    StallPostgres,
    /// All connections to Postgres are reset.
    ResetPostgres,
    /// Commits are done, and their replies lost.
    LoseCommit,
    /// The clocks of a worker and a gateway jump ahead, and back.
    JumpClock,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 22] = [
        Self::KillWorker,
        Self::TermWorker,
        Self::StopWorker,
        Self::KillGateway,
        Self::TermGateway,
        Self::StopGateway,
        Self::KillLeader,
        Self::RestartRedis,
        Self::EmptyRedis,
        Self::FlushRedis,
        Self::DeleteStream,
        Self::DestroyGroups,
        Self::StopRedis,
        Self::StallRedis,
        Self::ResetRedis,
        Self::LosePublish,
        Self::RestartPostgres,
        Self::StopPostgres,
        Self::StallPostgres,
        Self::ResetPostgres,
        Self::LoseCommit,
        Self::JumpClock,
    ];

    /// Its name in the history and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillWorker => "kill-worker",
            Self::TermWorker => "term-worker",
            Self::StopWorker => "stop-worker",
            Self::KillGateway => "kill-gateway",
            Self::TermGateway => "term-gateway",
            Self::StopGateway => "stop-gateway",
            Self::KillLeader => "kill-leader",
            Self::RestartRedis => "restart-redis",
            Self::EmptyRedis => "empty-redis",
            Self::FlushRedis => "flush-redis",
            Self::DeleteStream => "delete-stream",
            Self::DestroyGroups => "destroy-groups",
            Self::StopRedis => "stop-redis",
            Self::StallRedis => "stall-redis",
            Self::ResetRedis => "reset-redis",
            Self::LosePublish => "lose-publish-reply",
            Self::RestartPostgres => "restart-postgres",
            Self::StopPostgres => "stop-postgres",
            Self::StallPostgres => "stall-postgres",
            Self::ResetPostgres => "reset-postgres",
            Self::LoseCommit => "lose-commit-reply",
            Self::JumpClock => "jump-clock",
        }
    }

    /// Whether it may take events that were published.
    #[must_use]
    pub fn loses(self) -> bool {
        matches!(self, Self::EmptyRedis | Self::FlushRedis | Self::DeleteStream)
    }

    /// How long it lasts, in milliseconds: from, to. Zero for what is over as it happens.
    fn hold_ms(self) -> (u64, u64) {
        match self {
            Self::StopWorker => (7_000, 9_000),
            Self::KillWorker | Self::KillGateway | Self::KillLeader => (300, 3_000),
            Self::TermWorker | Self::TermGateway => (100, 1_000),
            Self::StopGateway => (2_000, 5_000),
            Self::RestartRedis | Self::EmptyRedis | Self::RestartPostgres => (200, 2_500),
            Self::StopRedis | Self::StallRedis | Self::StopPostgres | Self::StallPostgres => (1_500, 6_000),
            Self::LosePublish | Self::LoseCommit | Self::JumpClock => (2_000, 4_000),
            Self::FlushRedis | Self::DeleteStream | Self::DestroyGroups => (0, 1),
            Self::ResetRedis | Self::ResetPostgres => (0, 1),
        }
    }
}

/// A fault that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When, since the beginning; later if what was before takes longer to recover.
    pub at: Duration,
    /// What kind.
    pub kind: Kind,
    /// Draws the target among those that there are.
    pub target: u64,
    /// How long it lasts.
    pub hold: Duration,
}

/// The faults of a run of this length.
#[must_use]
pub fn plan(seed: u64, kinds: &[Kind], duration: Duration) -> Vec<Due> {
    let mut dice = Dice::new(seed, "faults");
    let (mut dues, mut deck, mut at) = (Vec::new(), Vec::new(), Duration::from_secs(3));
    while at < duration {
        if deck.is_empty() {
            deck.extend_from_slice(kinds);
            dice.shuffle(&mut deck);
        }
        let Some(kind) = deck.pop() else { break };
        let (from, to) = kind.hold_ms();
        let hold = Duration::from_millis(dice.between(from, to));
        dues.push(Due { at, kind, target: dice.roll(), hold });
        at += hold + Duration::from_millis(dice.between(2_000, 5_000));
    }
    dues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_every_kind_gets_its_turn() {
        let minutes = Duration::from_secs(600);
        let dues = plan(7, &Kind::ALL, minutes);
        assert_eq!(dues, plan(7, &Kind::ALL, minutes));
        assert_ne!(dues, plan(8, &Kind::ALL, minutes));
        assert_eq!(
            dues[..5],
            plan(7, &Kind::ALL, Duration::from_secs(60))[..5],
            "a shorter run is its beginning"
        );
        for kind in Kind::ALL {
            let times = dues.iter().filter(|due| due.kind == kind).count();
            assert!((3..=7).contains(&times), "{} comes {times} times", kind.name());
        }
    }
}
