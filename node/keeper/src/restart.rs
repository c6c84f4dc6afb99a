//! What happens after a child ended. Its one idea: that is a pure function of its policy and of when its lives ended,
//! so that every case is a line in a table of tests, and a keeper that takes over decides as the one before would have.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::protocol::Exit;

/// Most endings that are remembered of one child.
pub(crate) const MOST_ENDINGS: usize = 100;

/// When an ended child starts again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// However it ended.
    Always,
    /// Unless it ended with code 0.
    OnFailure,
    /// Not by itself.
    Never,
}

/// How an ended child starts again: after a wait that doubles with each short life, and not any more once it has
/// ended too often in too short a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// When it starts again at all.
    pub when: RestartWhen,
    /// The wait after the first short life, in milliseconds.
    pub first_wait_ms: u64,
    /// The longest wait, in milliseconds.
    pub most_wait_ms: u64,
    /// This many endings within `loop_within_ms` are a crash loop: the child is broken. At most 100; 0: never.
    pub loop_exits: u32,
    /// The time in which they count, in milliseconds. A life as long as this ends the doubling too.
    pub loop_within_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { when: RestartWhen::Always, first_wait_ms: 500, most_wait_ms: 30_000, loop_exits: 5, loop_within_ms: 60_000 }
    }
}

/// One ending of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When it was noticed.
    pub at: Moment,
    /// How long the child had lived, in milliseconds.
    pub lived_ms: u64,
}

/// What is to be done about an ended child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay,
    /// Start it at this moment.
    RestartAt(Moment),
    /// Leave it until told to start it again; it ended this often in the time that counts.
    Broken(u32),
}

/// Decides about a child that has just ended; `endings` are its endings in order, this one last.
pub fn after_exit(policy: &RestartPolicy, endings: &[Ending], exit: &Exit) -> Decision {
    let Some(last) = endings.last() else { return Decision::Stay };
    match policy.when {
        RestartWhen::Never => return Decision::Stay,
        RestartWhen::OnFailure if *exit == Exit::Code(0) => return Decision::Stay,
        RestartWhen::OnFailure | RestartWhen::Always => {}
    }
    let window = Duration::from_millis(policy.loop_within_ms);
    let recent = endings.iter().filter(|ending| last.at.since(ending.at) < window).count();
    let recent = u32::try_from(recent).unwrap_or(u32::MAX);
    if policy.loop_exits > 0 && recent >= policy.loop_exits {
        return Decision::Broken(recent);
    }
    Decision::RestartAt(last.at.after(wait(policy, endings)))
}

/// The wait before the next start: the first one, doubled for each life in a row before this one that was short.
pub(crate) fn wait(policy: &RestartPolicy, endings: &[Ending]) -> Duration {
    let short = endings.iter().rev().take_while(|ending| ending.lived_ms < policy.loop_within_ms).count();
    let doublings = u32::try_from(short.saturating_sub(1)).unwrap_or(u32::MAX).min(63);
    let wait = policy.first_wait_ms.saturating_mul(1 << doublings);
    Duration::from_millis(wait.min(policy.most_wait_ms.max(policy.first_wait_ms)))
}

/// Adds an ending, forgetting the oldest beyond what is ever looked at.
pub(crate) fn remember(endings: &mut Vec<Ending>, ending: Ending) {
    if endings.len() >= MOST_ENDINGS {
        endings.drain(..=endings.len() - MOST_ENDINGS);
    }
    endings.push(ending);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endings of lives of these lengths, each started as the policy says after the one before.
    fn lives(policy: &RestartPolicy, lived_ms: &[u64]) -> Vec<Ending> {
        let mut endings = Vec::new();
        let mut now = Moment::from_millis(1_000_000);
        for &lived_ms in lived_ms {
            now = now.after(Duration::from_millis(lived_ms));
            endings.push(Ending { at: now, lived_ms });
            now = now.after(wait(policy, &endings));
        }
        endings
    }

    fn waited_ms(policy: &RestartPolicy, endings: &[Ending]) -> Option<u64> {
        match after_exit(policy, endings, &Exit::Code(1)) {
            Decision::RestartAt(at) => Some(crate::clock::millis(at.since(endings.last()?.at))),
            Decision::Stay | Decision::Broken(_) => None,
        }
    }

    #[test]
    fn the_wait_doubles_with_each_short_life_up_to_the_longest() {
        let policy = RestartPolicy { loop_exits: 0, ..RestartPolicy::default() };
        let waits: Vec<_> = (1..=9).map(|n| waited_ms(&policy, &lives(&policy, &vec![10; n]))).collect();
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(waits, expected.map(Some));
    }

    #[test]
    fn a_long_life_begins_the_waits_anew() {
        let policy = RestartPolicy { loop_exits: 0, ..RestartPolicy::default() };
        assert_eq!(waited_ms(&policy, &lives(&policy, &[10, 10, 10, 60_000])), Some(500));
        assert_eq!(waited_ms(&policy, &lives(&policy, &[10, 10, 10, 60_000, 10])), Some(500));
        assert_eq!(waited_ms(&policy, &lives(&policy, &[10, 10, 10, 60_000, 10, 10])), Some(1000));
    }

    #[test]
    fn five_endings_within_a_minute_are_a_crash_loop_and_four_are_not() {
        let policy = RestartPolicy::default();
        assert!(waited_ms(&policy, &lives(&policy, &[10; 4])).is_some());
        assert_eq!(after_exit(&policy, &lives(&policy, &[10; 5]), &Exit::Code(1)), Decision::Broken(5));
    }

    #[test]
    fn endings_further_apart_than_the_window_are_no_crash_loop() {
        let policy = RestartPolicy::default();
        assert!(waited_ms(&policy, &lives(&policy, &[20_000; 50])).is_some());
    }

    #[test]
    fn a_success_counts_as_an_ending_only_where_the_policy_says_so() {
        let one = [Ending { at: Moment::from_millis(5), lived_ms: 1 }];
        let on_failure = RestartPolicy { when: RestartWhen::OnFailure, ..RestartPolicy::default() };
        let never = RestartPolicy { when: RestartWhen::Never, ..RestartPolicy::default() };
        assert_eq!(after_exit(&on_failure, &one, &Exit::Code(0)), Decision::Stay);
        assert!(matches!(after_exit(&on_failure, &one, &Exit::Unknown), Decision::RestartAt(_)));
        assert!(matches!(after_exit(&RestartPolicy::default(), &one, &Exit::Code(0)), Decision::RestartAt(_)));
        assert_eq!(after_exit(&never, &one, &Exit::Signal(9)), Decision::Stay);
    }

    #[test]
    fn only_so_many_endings_are_remembered_and_the_newest_stay() {
        let mut endings = Vec::new();
        for n in 0..250 {
            remember(&mut endings, Ending { at: Moment::from_millis(n), lived_ms: 0 });
        }
        assert_eq!(endings.len(), MOST_ENDINGS);
        assert_eq!(endings.last().map(|ending| ending.at), Some(Moment::from_millis(249)));
    }

    proptest::proptest! {
        #[test]
        fn no_history_and_no_policy_panics_or_waits_longer_than_allowed(
            first in proptest::prelude::any::<u64>(), most in proptest::prelude::any::<u64>(), exits in proptest::prelude::any::<u32>(),
            within in proptest::prelude::any::<u64>(), lived in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..120),
        ) {
            let policy = RestartPolicy {
                when: RestartWhen::Always, first_wait_ms: first, most_wait_ms: most, loop_exits: exits, loop_within_ms: within,
            };
            let endings: Vec<_> = lived.iter().map(|&lived_ms| Ending { at: Moment::from_millis(lived_ms), lived_ms }).collect();
            proptest::prop_assert!(wait(&policy, &endings) <= Duration::from_millis(most.max(first)));
            after_exit(&policy, &endings, &Exit::Unknown);
        }
    }
}
