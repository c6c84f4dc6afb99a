//! Updates and plans as text: what an update waits for, since when, and what can be done.

use std::collections::BTreeSet;

use tribune_messages::api::{UpdateInfo, UpdateSummary};
use tribune_raft_store::model::{
    Answer, BallotCast, Decision, Discrepancy, NeedKey, NodeName, NodePlan, NodeProgress, Phase, Plan, Timestamp, Update,
    UpdateKind,
};

use super::table::Table;
use super::waiting;
use super::words::{self, ago, clean, count, list, or_dash};
use crate::names::Names;

/// `update list`.
pub fn list_of(updates: &[UpdateSummary]) -> String {
    let mut table = Table::new(["update", "state", "since", "nodes", "packages", "by"]);
    for UpdateSummary { update, nodes, packages } in updates {
        let back = if update.request.kind == UpdateKind::Regress { "back from " } else { "" };
        table.row([
            update.id.to_string(),
            words::phase(update),
            super::fleet::ago(update.since),
            nodes.to_string(),
            format!("{back}{}", list(packages)),
            update.by.name.clone(),
        ]);
    }
    super::fleet::or_none(table.to_string(), "there is no update yet", updates.is_empty())
}

/// `update show`.
pub fn show(info: &UpdateInfo) -> String {
    let UpdateInfo { update, waiting: _, away: _, away_after: _, repaired, packages, index: _, now } = info;
    let names = Names::of(packages);
    let kind = match update.request.kind {
        UpdateKind::Install => "update",
        UpdateKind::Regress => "regress",
        UpdateKind::Converge => "convergence",
    };
    let when = match update.phase {
        Phase::Ended { .. } => format!(" {}", ago(*now, update.since)),
        _ => format!(", since {}", words::millis(now.since(update.since))),
    };
    let mut text = format!("{kind} {} {}{when}\n", update.id, words::stands(update));
    text.push_str(&format!("submitted by {} {}\n", clean(&update.by.name), ago(*now, update.submitted)));
    if let Some(reason) = &update.reason {
        text.push_str(&format!("why: {}\n", clean(reason)));
    }
    text.push_str(&waiting::text(info));
    text.push_str(&nodes(update, &names, *now));
    text.push_str(&ballots(update));
    text.push_str(&failures(update));
    text.push_str(&decisions(update, *now));
    text.push_str(&discrepancies(update, repaired));
    if let Some(plan) = &update.plan {
        text.push_str(&left_out(plan));
    }
    text
}

/// The packages of a node's plan, from → to.
fn changes(plan: &NodePlan, names: &Names) -> String {
    list(plan.changes.iter().map(|change| match (&change.from, &change.to) {
        (None, Some(to)) => format!("{} new → {}", change.name, names.version(to)),
        (Some(from), Some(to)) => format!("{} {} → {}", change.name, names.version(from), names.version(to)),
        (Some(from), None) => format!("{} {} → removed", change.name, names.version(from)),
        (None, None) => change.name.to_string(),
    }))
}

fn nodes(update: &Update, names: &Names, now: Timestamp) -> String {
    let Some(plan) = &update.plan else { return String::new() };
    let mut table = Table::new(["node", "step", "for", "wave", "packages"]);
    for (name, node) in &plan.nodes {
        let progress = update.nodes.get(name);
        table.row([
            name.to_string(),
            progress.map_or_else(|| "-".into(), |progress| progress.step.to_string()),
            progress.map_or_else(|| "-".into(), |progress| words::millis(now.since(progress.since))),
            wave_of(plan, name),
            changes(node, names),
        ]);
    }
    format!("\n{table}\n")
}

fn wave_of(plan: &Plan, name: &NodeName) -> String {
    plan.waves.iter().position(|wave| wave.contains(name)).map_or_else(|| "-".into(), |wave| (wave + 1).to_string())
}

/// Every veto, and how many agreed.
fn ballots(update: &Update) -> String {
    let mut table = Table::new(["veto on", "process", "pid", "state", "reason"]);
    let (mut vetoes, mut accepted) = (0, 0);
    for (name, node) in &update.nodes {
        for BallotCast { process, answer, lapsed, overruled } in &node.ballots {
            let Answer::Veto { reason } = answer else {
                accepted += usize::from(matches!(answer, Answer::Accept));
                continue;
            };
            vetoes += 1;
            let state = match (lapsed, overruled) {
                (_, true) => "overruled",
                (true, false) => "lapsed",
                (false, false) => "stands",
            };
            table.row([name.to_string(), process.name.clone(), process.pid.to_string(), state.into(), reason.clone()]);
        }
    }
    let mut text = String::new();
    if vetoes > 0 {
        text.push_str(&format!("\n{table}\n"));
    }
    if accepted > 0 {
        text.push_str(&format!(
            "\n{} accepted\n",
            if accepted == 1 { "1 process".into() } else { format!("{accepted} processes") }
        ));
    }
    text
}

fn failures(update: &Update) -> String {
    let failed = update.nodes.iter().filter_map(|(name, node)| Some((name, node, node.failure.as_ref()?)));
    let line = |(name, node, why): (&NodeName, &NodeProgress, &String)| {
        let left_behind = if node.left_behind { "; the others went on without it" } else { "" };
        format!("\nfailed on {name}: {}{left_behind}\n", clean(why))
    };
    failed.map(line).collect()
}

fn decisions(update: &Update, now: Timestamp) -> String {
    let mut text = String::new();
    for taken in &update.decisions {
        let past = match taken.overruled.len() {
            0 => String::new(),
            vetoes => format!(", past {}", if vetoes == 1 { "1 veto".into() } else { format!("{vetoes} vetoes") }),
        };
        let what = decision(&taken.decision);
        text.push_str(&format!("\ndecided {} by {}: {what}{past}\n", ago(now, taken.at), clean(&taken.by.name)));
    }
    text
}

/// A decision in words.
pub fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Force { why } => format!("force, because {}", clean(why)),
        Decision::Only { nodes } => format!("only {}", list(nodes)),
        Decision::AskAgain => "ask again".into(),
        Decision::Abort => "abort".into(),
    }
}

fn discrepancies(update: &Update, repaired: &BTreeSet<NeedKey>) -> String {
    let (gone, there): (Vec<_>, Vec<_>) =
        update.discrepancies.iter().partition(|discrepancy| repaired.contains(&NeedKey::from(*discrepancy)));
    let named = |title: &str, discrepancies: &[&Discrepancy]| {
        let lines: String = discrepancies.iter().map(|found| format!("  - {}\n", clean(&found.to_string()))).collect();
        if lines.is_empty() { lines } else { format!("\n{title}\n{lines}") }
    };
    named("needs that are not met", &there) + &named("needs that were not met, and are again", &gone)
}

fn left_out(plan: &Plan) -> String {
    plan.left_out.iter().map(|(node, why)| format!("\nleft out: {node}: {}\n", clean(why.as_str()))).collect()
}

/// `update plan`.
pub fn plan(plan: &Plan, names: &Names) -> String {
    let mut text = String::new();
    if !plan.nodes.is_empty() {
        let mut table = Table::new(["node", "wave", "packages", "modules", "from"]);
        for (name, node) in &plan.nodes {
            let source = if node.local { "local storage" } else { "package store" };
            table.row([
                name.to_string(),
                wave_of(plan, name),
                changes(node, names),
                or_dash(count(node.modules.len(), "module")),
                source.into(),
            ]);
        }
        text.push_str(&format!("{table}\n"));
    }
    text.push_str(&left_out(plan));
    for discrepancy in &plan.accepted {
        text.push_str(&format!("\naccepted: {}\n", clean(&discrepancy.to_string())));
    }
    if plan.blockers.is_empty() {
        text.push_str("\nnothing blocks it\n");
    }
    text
}

#[cfg(test)]
mod tests;
