//! Following an update until it has ended or waits for a decision.
//!
//! One idea: what is told is the difference between two looks at the record, so nothing is lost when a master dies in between,
//! and nothing is told twice.

use tribune_messages::api::UpdateInfo;
use tribune_raft_store::model::{Answer, BallotCast, NodeProgress, Outcome, Phase, Step, Update, UpdateId};

use crate::context::Context;
use crate::exit::Exit;
use crate::json::UpdateView;
use crate::output::words::{self, clean, count};
use crate::output::{end_with_reader, line, live, update as text, waiting};
use crate::problem::Done;

/// Follows an update; the exit says how it stands.
pub async fn watch(context: &mut Context, update: UpdateId) -> Done {
    let mut before: Option<UpdateInfo> = None;
    end_with_reader();
    loop {
        let after = before.as_ref().map(|info| info.index);
        let info = context.update(update, after).await?;
        let changed = before.as_ref().is_none_or(|before| before.update != info.update);
        if changed {
            tell(context, before.as_ref(), &info);
        }
        if let Some(exit) = Exit::at(&info.update) {
            if context.print.is_live() {
                live("");
            }
            if !context.print.is_json() {
                line(conclusion(&info).trim_end());
            }
            return Ok(exit);
        }
        if context.print.is_live() {
            live(&status(&info));
        }
        before = Some(info);
    }
}

fn tell(context: &Context, before: Option<&UpdateInfo>, info: &UpdateInfo) {
    if context.print.is_json() {
        context.print.show("update", String::new, || UpdateView::of(info));
        return;
    }
    let lines = changes(before.map(|info| &info.update), &info.update);
    if context.print.is_live() && !lines.is_empty() {
        live("");
    }
    for text in lines {
        line(&format!("{}  {}: {text}", words::time(info.now), info.update.id));
    }
}

/// The line that a terminal shows while the update goes on.
fn status(info: &UpdateInfo) -> String {
    let Some(waiting) = &info.waiting else { return String::new() };
    let settled = info.update.nodes.values().filter(|node| matches!(node.step, Step::Settled | Step::Persisted)).count();
    let nodes = count(info.update.nodes.len(), "node");
    let waits = clean(&waiting::short(&waiting.waiting_for));
    // Longer than most terminals are wide would leave pieces behind.
    let line = format!("{} {}: {settled} of {nodes} settled, waits for {waits}", info.update.id, info.update.phase);
    line.chars().take(100).collect()
}

/// What changed between two looks, one sentence each.
fn changes(before: Option<&Update>, now: &Update) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, node) in &now.nodes {
        let old = before.and_then(|before| before.nodes.get(name));
        lines.extend(node_changes(old, node).into_iter().map(|change| format!("node {name}: {change}")));
    }
    let decided = before.map_or(0, |before| before.decisions.len());
    for taken in now.decisions.iter().skip(decided) {
        lines.push(format!("{} decided: {}", clean(&taken.by.name), text::decision(&taken.decision)));
    }
    if before.is_none_or(|before| before.phase != now.phase) {
        lines.push(words::phase(now));
    }
    lines
}

fn node_changes(old: Option<&NodeProgress>, new: &NodeProgress) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = new.failure.as_ref().filter(|why| old.and_then(|old| old.failure.as_ref()) != Some(why)) {
        lines.push(format!("failed: {}", clean(why)));
    }
    for ballot in &new.ballots {
        let known = old.and_then(|old| old.ballots.iter().find(|known| known.process == ballot.process));
        lines.extend(ballot_change(known, ballot));
    }
    if old.map_or(Step::Planned, |old| old.step) != new.step {
        lines.push(new.step.to_string());
    }
    lines
}

fn ballot_change(known: Option<&BallotCast>, ballot: &BallotCast) -> Option<String> {
    if known == Some(ballot) {
        return None;
    }
    let who = format!("{} (pid {})", clean(&ballot.process.name), ballot.process.pid);
    match (&ballot.answer, ballot.overruled, ballot.lapsed) {
        (Answer::Veto { .. }, true, _) => Some(format!("{who} was overruled")),
        (Answer::Veto { .. }, false, true) => Some(format!("{who} is gone, its veto has lapsed")),
        (Answer::Veto { reason }, false, false) => Some(format!("{who} vetoed: {}", clean(reason))),
        (Answer::Accept | Answer::Abstain, _, _) => None,
    }
}

/// What is said last: how it ended, or what is to be decided.
fn conclusion(info: &UpdateInfo) -> String {
    let update = &info.update;
    let mut text = match (&update.phase, &update.reason) {
        (Phase::Ended { outcome }, Some(why)) => format!("{} {outcome}: {}\n", update.id, clean(why)),
        (Phase::Ended { outcome }, None) => format!("{} {outcome}\n", update.id),
        _ => format!("{} is {}\n{}", update.id, words::phase(update), waiting::text(info)),
    };
    for discrepancy in &update.discrepancies {
        text.push_str(&format!("  - {}\n", clean(&discrepancy.to_string())));
    }
    match update.phase {
        Phase::Ended { outcome: Outcome::CompletedInPart } => {
            text.push_str(&format!("note: some nodes were left out; `tribune update show {}` names them\n", update.id));
        }
        Phase::Ended { outcome: Outcome::RegressFailed } => {
            let failed = update.nodes.iter().filter(|(_, node)| node.changed && node.step == Step::Failed);
            let failed = failed.filter_map(|(name, node)| Some((name, node.failure.as_ref()?)));
            for (name, why) in failed {
                text.push_str(&format!("  - node {name} could not go back: {}\n", clean(why)));
            }
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests;
