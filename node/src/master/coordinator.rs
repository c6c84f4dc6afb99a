//! Drives updates: proposes what is due, whenever the record or who is there has changed.
//!
//! One idea: it remembers nothing. What is due follows from the record, who is there, and the time; a proposal that was lost is due
//! again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use tribune_master::{due, next_wake};
use tribune_planted::{Bug, planted};
use tribune_raft_store::command::{MasterCommand, Rejection};

use super::reign::Reign;

/// How long what could not be proposed waits, unless something changes before.
const AGAIN: Duration = Duration::from_secs(1);

/// Proposes what is due, for as long as the reign lasts.
pub(super) async fn coordinate(reign: Arc<Reign>) {
    let mut published = reign.published.clone();
    let mut present = reign.liveness.subscribe();
    loop {
        // What changes from here on wakes it again.
        let seen = published.borrow_and_update().clone();
        let record = seen.record();
        let now = reign.now();
        reign.liveness.send_if_modified(|liveness| {
            liveness.observe(record, now);
            false
        });
        let liveness = present.borrow_and_update().clone();
        let commands = due(record, &liveness, now, Some(&reign.name));
        let mut wake = next_wake(record, &liveness, now).map(|at| reign.instant(at));
        for command in commands {
            if !propose(&reign, command).await {
                wake = Some(Instant::now() + AGAIN);
            }
        }
        if planted(Bug::LostWakeUp) {
            published.borrow_and_update();
        }
        let rest = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = present.changed() => if changed.is_err() { return },
            () = rest => {}
        }
    }
}

/// Whether it was done.
async fn propose(reign: &Reign, command: MasterCommand) -> bool {
    let (what, update) = (command.kind(), update_of(&command).map(|update| update.to_string()));
    if is_held_back(what) {
        return false;
    }
    match reign.propose(command).await {
        Ok(Ok(_)) => {
            debug!(what, update, "proposed");
            true
        }
        // The record went on meanwhile: what is due is worked out anew from it.
        Ok(Err(Rejection::Outdated | Rejection::PlanOutdated { .. })) => false,
        Ok(Err(rejection)) => {
            warn!(what, update, why = %rejection, "what was due is not possible; it is tried again");
            false
        }
        Err(error) => {
            warn!(what, update, %error, "what was due could not be proposed; it is tried again");
            false
        }
    }
}

/// Whether a test holds back what the master would do at once: in a debug build, while a file of that name lies in the folder that
/// `TRIBUNE_HOLD_BACK` names. So a test can kill the master at a step that an update leaves in no time.
fn is_held_back(what: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os("TRIBUNE_HOLD_BACK").is_some_and(|folder| Path::new(&folder).join(what).exists())
}

fn update_of(command: &MasterCommand) -> Option<tribune_raft_store::model::UpdateId> {
    match command {
        MasterCommand::SetPlan { update, .. }
        | MasterCommand::Go { update, .. }
        | MasterCommand::Away { update, .. }
        | MasterCommand::DecideExpired { update, .. }
        | MasterCommand::Verified { update, .. }
        | MasterCommand::Report { update, .. } => Some(*update),
        MasterCommand::Create(_)
        | MasterCommand::Join { .. }
        | MasterCommand::CloneRefused { .. }
        | MasterCommand::NodeState { .. }
        | MasterCommand::Converge { .. }
        | MasterCommand::Checked { .. }
        | MasterCommand::MakeStandby { .. }
        | MasterCommand::MakeVoter { .. }
        | MasterCommand::MakeMember { .. }
        | MasterCommand::Recover { .. } => None,
    }
}
