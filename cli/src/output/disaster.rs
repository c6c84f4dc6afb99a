//! What the commands for disasters say.

use std::collections::BTreeSet;
use std::fmt::Display;

use tribune_messages::api::{DiskPart, Finding, Fsck, LookedAt};
use tribune_node::backup::format::About;
use tribune_node::backup::restore::{Place, Restored};
use tribune_node::recovery::force::Recovered;
use tribune_raft_store::model::NodeName;

use super::words::{count, list, size, time};

/// What is in a backup.
pub fn backup(about: &About, bytes: u64, file: &impl Display) -> String {
    let About { cluster, epoch: _, node, version: _, made_at: _, index, last_written, modules, incomplete } = about;
    let mut lines = vec![
        format!("{file} ({}) is a backup of cluster {cluster}, made by node {node}", size(bytes)),
        format!(
            "it has the record up to log entry {index}, of {} UTC, and {}",
            time(*last_written),
            count(usize::try_from(*modules).unwrap_or(usize::MAX), "module")
        ),
    ];
    if !incomplete.is_empty() {
        lines.push(format!("of these packages it lacks modules of which there is no sound copy: {}", list(incomplete)));
    }
    lines.join("\n")
}

/// What `restore` made, and what may be lost.
pub fn restored(restored: &Restored, data: &impl Display) -> String {
    let Restored { about, node, peer: _, place, epoch, others } = restored;
    let mut lines = vec![
        format!("node {node} is the only voter of cluster {}, at recovery epoch {epoch}", about.cluster),
        format!("restored: the record up to log entry {}, of {} UTC", about.index, time(about.last_written)),
        "lost: what was acknowledged after that, if anything was".to_owned(),
    ];
    if *place == Place::OfAnother {
        lines.push(format!("it takes the place of the machine that was {node}, which is out of the cluster for good"));
    }
    lines.extend(members_now(others));
    if !about.incomplete.is_empty() {
        lines.push(publish_again(&about.incomplete.iter().cloned().collect()));
    }
    lines.push(format!("start it with: tribune run --data {data}"));
    lines.join("\n")
}

/// What `recover` did, and what may be lost.
pub fn recovered(recovered: &Recovered, data: &impl Display) -> String {
    let Recovered { cluster, node, epoch, raft_id: _, index, last_written, unconfirmed, others, incomplete } = recovered;
    let mut lines = vec![
        format!("node {node} is the only voter of cluster {cluster}, at recovery epoch {epoch}"),
        format!("kept: the record up to log entry {index}, of {} UTC", time(*last_written)),
        "lost: what was acknowledged after that, if anything was".to_owned(),
    ];
    if *unconfirmed > 0 {
        let (entries, they) = if *unconfirmed == 1 { ("entry", "it") } else { ("entries", "they") };
        lines.push(format!(
            "this node did not know of the last {unconfirmed} {entries} whether the others had them too: {they} count from now on"
        ));
    }
    lines.extend(members_now(others));
    if !incomplete.is_empty() {
        lines.push(publish_again(incomplete));
    }
    lines.push(format!("start it with: tribune run --data {data}"));
    lines.join("\n")
}

/// What was looked at on a node's disk, and what was found.
pub fn fsck(found: &Fsck) -> String {
    let Fsck { node, looked_at, findings } = found;
    let mut lines: Vec<String> = looked_at
        .iter()
        .map(|LookedAt { part, read, bytes }| {
            let (name, unit) = named(*part);
            format!("{name}: {}, {}", count(usize::try_from(*read).unwrap_or(usize::MAX), unit), size(*bytes))
        })
        .collect();
    for Finding { part, place, what, todo } in findings {
        lines.push(format!("{}: {place}: {what}\n  {todo}", named(*part).0));
    }
    lines.push(match findings.len() {
        0 => format!("everything on the disk of node {node} is as it was written"),
        found => format!("{} on the disk of node {node}", count(found, "problem")),
    });
    lines.join("\n")
}

/// What a part is called, and what it is counted in.
fn named(part: DiskPart) -> (&'static str, &'static str) {
    match part {
        DiskPart::NodeFiles => ("node files", "file"),
        DiskPart::RaftStore => ("Raft store", "row"),
        DiskPart::PackageStore => ("package store", "blob"),
        DiskPart::LocalStorage => ("local storage", "file"),
    }
}

/// Those that had a part in Raft, and have none now.
fn members_now(others: &BTreeSet<NodeName>) -> Option<String> {
    let are = if others.len() == 1 { "is a member" } else { "are members" };
    let what = format!("{} {are} from now on; take those that are gone for good out with `tribune node remove`", list(others));
    (!others.is_empty()).then_some(what)
}

/// Packages that lack modules.
fn publish_again(incomplete: &BTreeSet<String>) -> String {
    let lacks = if incomplete.len() == 1 { "lacks" } else { "lack" };
    let what = count(incomplete.len(), "package");
    format!("{what} {lacks} modules in this node's package store; publish what no other node has again: {}", list(incomplete))
}
