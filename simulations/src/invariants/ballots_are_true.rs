//! A ballot in the record is what the process said (claims 5 and 6).

use std::time::Duration;

use tribune_agent::processes::ProcessId;
use tribune_raft_store::model::Answer;

use super::Invariant;
use crate::seen::Seen;

/// How long what is written down may be behind what a process says.
const SPEAKS: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct BallotsAreTrue;

impl Invariant for BallotsAreTrue {
    fn name(&self) -> &'static str {
        "ballots-are-true"
    }

    fn sentence(&self) -> &'static str {
        "Whoever is written down as having accepted has said so, or says nothing at all."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            for (name, progress) in &update.nodes {
                if seen.was(id).and_then(|was| was.nodes.get(name)).is_some_and(|was| was.ballots == progress.ballots) {
                    continue;
                }
                let Some(node) = seen.nodes.iter().find(|node| node.name == name.as_str()) else { continue };
                let inner = node.machine.lock();
                for ballot in &progress.ballots {
                    let process = ProcessId { pid: ballot.process.pid, start_time: ballot.process.start_time };
                    let key = (process, id.to_string());
                    let Some(told) = inner.told.get(&key) else { continue };
                    // One that had just begun to speak was taken not to, up to then.
                    let asked = !told.had_just_spoken && told.proposed.is_some_and(|at| seen.at.saturating_sub(at) > SPEAKS);
                    if ballot.answer == Answer::Accept && asked && told.accepted.is_none() && told.vetoed.is_none() {
                        return Err(format!(
                            "{} on {name} is written down as accepting {id}, and never answered",
                            ballot.process.name
                        ));
                    }
                    if ballot.answer == Answer::Accept && asked && told.vetoed.is_some() && told.accepted.is_none() {
                        return Err(format!(
                            "{} on {name} is written down as accepting {id}, and vetoed it",
                            ballot.process.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
