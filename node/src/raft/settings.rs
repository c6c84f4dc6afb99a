//! How fast Raft is, and how much it keeps.

use std::time::Duration;

use openraft::SnapshotPolicy;

use super::error::RaftError;

/// How long openraft lets a snapshot take. A transfer that stands still ends long before.
const SNAPSHOT_MILLIS: u64 = 600_000;
/// How long openraft waits before it tries an unreachable peer again.
const BACKOFF: &str = "100ms";
/// The most entries in one message; their bytes are limited as well.
const MAX_ENTRIES: u64 = 256;

/// How fast Raft is, and how much it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSettings {
    /// How often the master says that it is there.
    pub heartbeat: Duration,
    /// How long a voter waits for the master at least before it stands for election. It only matters when no connection broke.
    pub election_min: Duration,
    /// How long it waits at most.
    pub election_max: Duration,
    /// How long a proposal or a read waits for the other voters.
    pub answer_within: Duration,
    /// After how many entries a snapshot is made.
    pub snapshot_every: u64,
    /// How many entries that are in the snapshot are kept, for those who are a little behind.
    pub keep_entries: u64,
}

impl Default for RaftSettings {
    /// A heartbeat every 100 ms, elections after 0.6 to 1 s, answers within 10 s, a snapshot every 5,000 entries of which 1,000 are kept.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1000),
            answer_within: Duration::from_secs(10),
            snapshot_every: 5000,
            keep_entries: 1000,
        }
    }
}

impl RaftSettings {
    /// What openraft calls them.
    pub(super) fn config(&self) -> Result<openraft::Config, RaftError> {
        let config = openraft::Config {
            cluster_name: "tribune".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: SNAPSHOT_MILLIS,
            max_payload_entries: MAX_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            enable_pre_vote: Some(true),
            // Each leadership has a term of its own, also that of a master which was restarted: directives are fenced by it.
            enable_leader_restore: Some(false),
            backoff: BACKOFF.into(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| RaftError::Settings(error.to_string()))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
