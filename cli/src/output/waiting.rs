//! What an update waits for, since when, and what can be done, as text.
//!
//! One idea: there is an answer for every state an update can be in, and whoever reads it knows what to type.

use tribune_messages::api::UpdateInfo;
use tribune_raft_store::model::{NodeName, ProcessRef, Step};
use tribune_raft_store::record::WaitingFor;

use super::words::{self, clean, list};

/// The most processes that are named.
const MOST: usize = 20;

/// What it waits for, since when, and what can be done; nothing if it has ended.
pub fn text(info: &UpdateInfo) -> String {
    let UpdateInfo { update, waiting: Some(waiting), away, away_after, now, .. } = info else { return String::new() };
    let what = short(&waiting.waiting_for);
    let mut text = format!("\nwaits for {what}, since {}\n", words::millis(now.since(waiting.since)));
    match &waiting.waiting_for {
        WaitingFor::Answers { asked, .. } => text.push_str(&being_asked(asked)),
        WaitingFor::Decision { about } => {
            for sentence in about {
                text.push_str(&format!("  - {}\n", clean(sentence)));
            }
        }
        _ => {}
    }
    if update.phase.waits_for_user() {
        let changed = update.nodes.values().any(|node| node.changed);
        let then = if changed { "goes back" } else { "is aborted" };
        text.push_str(&format!("undecided, it {then} {} after that\n", words::span(update.request.options.decide_within)));
    }
    for (node, time) in away {
        let (time, limit) = (words::span(*time), words::span(*away_after));
        text.push_str(&format!("node {node} is away, since {time}; {limit} after it went that counts as its failure\n"));
    }
    if !waiting.can.is_empty() {
        text.push_str("you can\n");
        for command in &waiting.can {
            text.push_str(&format!("  {command}\n"));
        }
    }
    text
}

/// Who is being asked, a line for each.
fn being_asked(asked: &[(NodeName, ProcessRef)]) -> String {
    let named = asked.iter().take(MOST);
    let line = |(node, process): &(NodeName, ProcessRef)| {
        format!("  - {} (pid {}) on node {node} was asked\n", clean(&process.name), process.pid)
    };
    let mut text: String = named.map(line).collect();
    if asked.len() > MOST {
        text.push_str(&format!("  - and {} more\n", asked.len() - MOST));
    }
    text
}

/// What is waited for, as the rest of a line.
pub fn short(waiting: &WaitingFor) -> String {
    let steps = |nodes: &[(NodeName, Step)]| list(nodes.iter().map(|(node, step)| format!("{node} ({})", doing(*step))));
    match waiting {
        WaitingFor::Updates { updates } => format!("updates before it: {}", list(updates)),
        WaitingFor::Answers { nodes, .. } => format!("answers of processes on {}", list(nodes)),
        WaitingFor::Decision { .. } => "your decision".into(),
        WaitingFor::Staging { nodes } => format!("modules to be fetched and staged on {}", list(nodes)),
        WaitingFor::Changeover { nodes } => format!("changeover on {}", steps(nodes)),
        WaitingFor::Resume { left, finishing } => {
            let left = if left.is_empty() { "only the check".into() } else { list(left) };
            let finishing = if finishing.is_empty() { String::new() } else { format!("; on its way: {}", steps(finishing)) };
            format!("somebody to resume it; left: {left}{finishing}")
        }
        WaitingFor::Check => "the master's check of what is installed".into(),
        WaitingFor::Persist { nodes } => format!("somebody to persist what runs on {}, or to take it back", list(nodes)),
        WaitingFor::Installing { nodes } => format!("what runs to be installed on {}", list(nodes)),
        WaitingFor::Regress { nodes } => format!("nodes to go back by themselves: {}", list(nodes)),
        WaitingFor::Master => "the master to plan it and tell the nodes".into(),
    }
}

/// What a node that changes over is about.
fn doing(step: Step) -> &'static str {
    match step {
        Step::Planned | Step::Asked => "asks its processes again",
        Step::Voted => "fetches and stages again",
        Step::Staged => "is about to bring its processes to a safe point",
        Step::Pending => "its processes come to a safe point",
        Step::Ready => "ready, waits for the others of its wave and the master's go",
        Step::Go => "starts the new modules",
        Step::Started => "the new modules run; their health has to hold",
        Step::Settled | Step::Persisted => "done",
        Step::Regressed => "went back",
        Step::Failed => "failed",
        Step::Away => "away",
    }
}

#[cfg(test)]
mod tests;
