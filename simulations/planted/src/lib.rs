//! Bugs that can be switched on, to see whether the simulation finds them.
//!
//! One idea: at each place where a bug would be, the code asks [`planted`]. Only a build with debug assertions can be told to say yes, and
//! only the simulation's program ever tells it; in a release the question is the constant `false`, and the place is not there.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(debug_assertions)]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Makes the enum, with each bug's name and what it does.
macro_rules! bugs {
    ($($bug:ident = $number:literal, $name:literal, $does:literal;)*) => {
        /// A known bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $does] $bug = $number,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// What it does, as a sentence.
            pub fn does(self) -> &'static str {
                match self {
                    $(Self::$bug => $does,)*
                }
            }
        }
    };
}

bugs! {
    VoteNotSynced = 1, "vote-not-synced", "A vote is given before it is durable.";
    AppendAcknowledgedBeforeSync = 2, "append-acknowledged-before-sync", "Log entries are acknowledged before they are durable.";
    TruncatedLogComesBack = 3, "truncated-log-comes-back", "What a new master took out of the log is still there after a restart.";
    SnapshotOmitsTombstones = 4, "snapshot-omits-tombstones", "A snapshot leaves out what was regressed.";
    HashMapOrder = 5, "hash-map-order", "What is written down depends on the order of a hash map.";
    RetriedOrderAppliedTwice = 6, "retried-order-applied-twice", "An order whose answer was lost is carried out again when it is repeated.";
    TwoUpdatesOnANode = 7, "two-updates-on-a-node", "An update begins on nodes that another has.";
    ChangeoverBeforeAllHaveStaged = 8, "changeover-before-all-have-staged", "The first wave begins when one node has staged.";
    RegressOverWhenOneIsBack = 9, "regress-over-when-one-is-back", "A regress is over when the first node is back.";
    LateVetoNotCounted = 10, "late-veto-not-counted", "A veto that comes after all have voted moves nothing.";
    EphemeralRecorded = 11, "ephemeral-recorded", "What an ephemeral update ran is written down as what a node should have.";
    TombstoneCrossed = 12, "tombstone-crossed", "A plan takes no notice of what was regressed.";
    DecisionAgainstOtherBallots = 13, "decision-against-other-ballots", "A decision is taken though the ballots have changed since its user saw them.";
    AcknowledgedBeforeMajority = 14, "acknowledged-before-majority", "A package is published when one voter has its modules.";
    VoterMadeBeforeBlobs = 15, "voter-made-before-blobs", "A standby becomes a voter before it has the package store.";
    ReportAcknowledgedBeforeCommit = 16, "report-acknowledged-before-commit", "A node is told that its report is taken before it is in the record.";
    LostWakeUp = 17, "lost-wake-up", "What changes while the coordinator works wakes it no more.";
    QuestionsWithoutAMajority = 18, "questions-without-a-majority", "A master answers questions without asking whether it still is one.";
    RegressFetches = 19, "regress-fetches", "Modules of the generations that a node can go back to are cleared away.";
    SilenceCountsAsAccept = 20, "silence-counts-as-accept", "Who says nothing in time is taken to accept.";
    DependantsNotTransitive = 21, "dependants-not-transitive", "Only who depends on a change directly is asked.";
    OutcomeNotTold = 22, "outcome-not-told", "Processes are not told that an update was given up.";
    GenerationCurrentBeforeSettled = 23, "generation-current-before-settled", "New modules are what a restart starts before they have held.";
    StaleFenceAccepted = 24, "stale-fence-accepted", "A node obeys whoever says it is master, of whatever term, and a master says so that has lost the voters.";
    DamagedModuleStaged = 25, "damaged-module-staged", "A module whose bytes have changed is staged all the same.";
    FolderNameNotSynced = 27, "folder-name-not-synced", "The name of a new folder is not durable, though what is in it is.";
    GoPastOwnVeto = 26, "go-past-own-veto", "A go is taken by a node that has heard a veto since it was ready.";
}

/// Plants a bug in this process, for good. For the simulation.
#[cfg(debug_assertions)]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, Ordering::Relaxed);
}

/// Whether this bug was planted.
#[cfg(debug_assertions)]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}

/// In a release nothing can be planted.
#[cfg(not(debug_assertions))]
pub fn plant(_: Bug) {}

/// In a release nothing is planted.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

impl std::str::FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
        Bug::ALL
            .iter()
            .copied()
            .find(|bug| bug.name() == name)
            .ok_or_else(|| format!("there is no bug {name:?}; there are {}", known()))
    }
}
