//! What a user sees of the record: pure functions from the record to what is answered.

use std::collections::{BTreeMap, BTreeSet};

use tribune_master::{Liveness, discrepancies, has_what_it_should, should_have, stays_because, verdict};
use tribune_messages::api::{ClassInfo, NodeInfo, PackageInfo, UpdateInfo, UpdateSummary};
use tribune_raft_store::model::{
    Discrepancy, Event, NeedKey, Node, NodeName, PackageChange, PackageId, PackageName, Principal, PublicKey, Span, Timestamp,
    Unmet, Update, UpdateKind,
};
use tribune_raft_store::record::Record;

/// The nodes, by name, which of them are there, and why those that are not what they should be are not.
pub(super) fn nodes(record: &Record, liveness: &Liveness, master: &NodeName) -> Vec<NodeInfo> {
    let info = |node: &Node| NodeInfo {
        connected: liveness.is_connected(&node.name),
        master: node.name == *master,
        packages: versions(record, &node.current.packages),
        runs: versions(record, node.packages()),
        should: versions(record, &should_have(record, node)),
        drift: drift(record, node, liveness, master),
        node: node.clone(),
    };
    record.nodes().values().map(info).collect()
}

/// Why a node is not what it should be and does not become it now, one sentence each.
fn drift(record: &Record, node: &Node, liveness: &Liveness, master: &NodeName) -> Vec<String> {
    let strays = !has_what_it_should(record, node);
    if strays && !liveness.is_connected(&node.name) {
        return vec!["it is away: it comes to what it should have when it is back".to_owned()];
    }
    let mut why = stays_because(record, node, liveness, Some(master));
    if let Some(attempts) = node.converging.as_ref().filter(|_| strays && !node.is_apart()) {
        let (count, pause) = (attempts.count, attempts.pause());
        why.push(format!("attempt {count} to come to it ended: {}; the next is {pause} later", attempts.why));
    }
    why
}

/// The classes, by name.
pub(super) fn classes(record: &Record) -> Vec<ClassInfo> {
    let mut members: BTreeMap<_, Vec<NodeName>> = BTreeMap::new();
    for node in record.nodes().values() {
        if let Some(class) = &node.class {
            members.entry(class).or_default().push(node.name.clone());
        }
    }
    let info = |class: &tribune_raft_store::model::Class| ClassInfo {
        nodes: members.remove(&class.name).unwrap_or_default(),
        should: versions(record, &class.should),
        class: class.clone(),
    };
    record.classes().values().map(info).collect()
}

/// Who may do what, by name.
pub(super) fn principals(record: &Record) -> Vec<(PublicKey, Principal)> {
    let mut all: Vec<_> = record.principals().iter().map(|(key, principal)| (*key, principal.clone())).collect();
    all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    all
}

/// The packages, by name and version; only those of one name, if it is given.
pub(super) fn packages(record: &Record, name: Option<&PackageName>) -> Vec<PackageInfo> {
    let mut rows: Vec<_> =
        record.packages().iter().filter(|(_, package)| name.is_none_or(|name| package.manifest.name == *name)).collect();
    rows.sort_by(|(_, a), (_, b)| (&a.manifest.name, &a.manifest.version).cmp(&(&b.manifest.name, &b.manifest.version)));
    let info = |(id, package): (&PackageId, &tribune_raft_store::model::Package)| PackageInfo {
        id: *id,
        manifest: package.text.clone(),
        published_by: name_of(record, &package.published_by),
        published: package.published,
        copies: package.copies,
    };
    rows.into_iter().map(info).collect()
}

/// The updates, newest first, at most `limit`.
pub(super) fn updates(record: &Record, limit: usize) -> Vec<UpdateSummary> {
    record.updates().values().rev().take(limit).map(|update| summary(record, update)).collect()
}

fn summary(record: &Record, update: &Update) -> UpdateSummary {
    let planned = update.plan.as_ref().map_or(0, |plan| plan.nodes.len());
    let nodes = update.nodes.len().max(planned);
    let mut packages: Vec<String> = changes(update)
        .filter_map(|change| named(record, update, change))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    packages.sort();
    packages.dedup();
    let header =
        Update { plan: None, nodes: BTreeMap::new(), decisions: Vec::new(), discrepancies: Vec::new(), ..update.clone() };
    UpdateSummary { update: header, nodes: u32::try_from(nodes).unwrap_or(u32::MAX), packages }
}

fn changes(update: &Update) -> impl Iterator<Item = &PackageChange> {
    update.plan.iter().flat_map(|plan| plan.nodes.values()).flat_map(|node| &node.changes)
}

/// What a change is to; of a regress, and where something is removed, what it is from.
fn named(record: &Record, update: &Update, change: &PackageChange) -> Option<(PackageName, String)> {
    let id = match update.request.kind {
        UpdateKind::Install | UpdateKind::Converge => change.to.or(change.from),
        UpdateKind::Regress => change.from.or(change.to),
    };
    Some((change.name.clone(), version(record, &id?)))
}

/// One update, as this record has it.
pub(super) fn update(record: &Record, update: &Update, index: u64, now: Timestamp, away: BTreeMap<NodeName, Span>) -> UpdateInfo {
    let targets = &update.request.targets;
    let ids = changes(update).flat_map(|change| change.from.into_iter().chain(change.to));
    let ids: BTreeSet<PackageId> = ids.chain(targets.nodes.values().chain(targets.classes.values()).flatten().copied()).collect();
    let named = ids.into_iter().filter_map(|id| {
        let manifest = &record.packages().get(&id)?.manifest;
        Some((id, (manifest.name.clone(), manifest.version.to_string())))
    });
    let (waiting, repaired) = (record.waiting(update), repaired(record, update));
    let away_after = tribune_master::away_after(record);
    UpdateInfo { update: update.clone(), waiting, away, away_after, repaired, packages: named.collect(), index, now }
}

/// The discrepancies of an update that are there no more.
fn repaired(record: &Record, update: &Update) -> BTreeSet<NeedKey> {
    if update.discrepancies.is_empty() {
        return BTreeSet::new();
    }
    let there: BTreeSet<NeedKey> = discrepancies(record).iter().chain(&verdict(record, update)).map(NeedKey::from).collect();
    update.discrepancies.iter().map(NeedKey::from).filter(|need| !there.contains(need)).collect()
}

/// The needs that are not met now, with what the record knows of each.
pub(super) fn unmet(record: &Record) -> Vec<Unmet> {
    let now = record.cluster().map(|cluster| cluster.time).unwrap_or_default();
    let known = |discrepancy: Discrepancy| {
        let row = record.unmet().get(&NeedKey::from(&discrepancy)).cloned();
        let (since, update, accepted_by) = row.map_or((now, None, None), |row| (row.since, row.update, row.accepted_by));
        Unmet { discrepancy, since, update, accepted_by }
    };
    discrepancies(record).into_iter().map(known).collect()
}

/// Events with a greater number than `after`, oldest first, at most `limit`; without `after` the last ones.
pub(super) fn events(record: &Record, after: Option<u64>, limit: usize) -> Vec<Event> {
    let newer = record.events().values().rev().take_while(|event| after.is_none_or(|after| event.seq > after));
    let mut events: Vec<Event> = match after {
        Some(_) => {
            // The oldest of them come first: the asker goes on from the last it got.
            let newer: Vec<&Event> = newer.collect();
            return newer.into_iter().rev().take(limit).cloned().collect();
        }
        None => newer.take(limit).cloned().collect(),
    };
    events.reverse();
    events
}

fn versions(record: &Record, packages: &BTreeMap<PackageName, PackageId>) -> BTreeMap<PackageName, String> {
    packages.iter().map(|(name, id)| (name.clone(), version(record, id))).collect()
}

/// A package's version; of one that the record does not have, its id.
fn version(record: &Record, id: &PackageId) -> String {
    record.packages().get(id).map_or_else(|| id.short(), |package| package.manifest.version.to_string())
}

fn name_of(record: &Record, key: &PublicKey) -> String {
    record.role_of(key).map_or_else(|| format!("key {}", key.short()), |(_, name)| name)
}
