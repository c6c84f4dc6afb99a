//! Whatever entries come: no panic, the same bytes on every voter, and a snapshot is the record.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::Strategy;
use serde_json::json;
use tribune_raft_store::command::{Entry, Evidence, MasterCommand, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::{Record, WaitingFor};

use crate::fleet::{Fleet, accepts, facts, install, manifest, node, nodes, process, vetoes};

/// How many sequences of entries are tried.
const CASES: u32 = 10_000;
/// A snapshot is restored after the sequences whose length is a multiple of this.
const RESTORED: usize = 6;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// An update that is submitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Submit {
    regress: bool,
    on_failure: u8,
    one_wave: bool,
    force: bool,
    ephemeral: bool,
}

/// One thing to be done, which is made into an entry when it is its turn.
#[derive(Debug, Clone)]
enum Act {
    Submit(Submit),
    Vote { update: u8, node: u8, veto: bool, lapsed: bool, pid: u32 },
    Report { update: u8, node: u8, what: u8 },
    Go { update: u8, mask: u8 },
    Away { update: u8, node: u8 },
    Decide { update: u8, what: u8 },
    Cancel { update: u8 },
    Persist { update: u8 },
    Pause { update: u8 },
    RemovePackage,
    Resume { update: u8 },
    Verified { update: u8, discrepancy: bool },
    Checked { discrepancy: bool, old: bool },
    Expired { update: u8, days: u8 },
    SetPlan { update: u8, blocked: bool },
    Class { node: u8, add: bool },
    Raft { node: u8, what: u8 },
    Remove { node: u8 },
    Again,
    Back { seconds: u16 },
}

fn act() -> impl Strategy<Value = Act> {
    let (update, node, flag) = (0..4_u8, 0..4_u8, any::<bool>());
    // Checking signatures takes most of the time, so what users order is rare here.
    prop_oneof![
        40 => (update.clone(), node.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.1), 1..4_u32)
            .prop_map(|(update, node, veto, lapsed, pid)| Act::Vote { update, node, veto, lapsed, pid }),
        80 => (update.clone(), node.clone(), 0..12_u8).prop_map(|(update, node, what)| Act::Report { update, node, what }),
        30 => (update.clone(), 0..8_u8).prop_map(|(update, mask)| Act::Go { update, mask }),
        4 => (update.clone(), node.clone()).prop_map(|(update, node)| Act::Away { update, node }),
        8 => (update.clone(), flag).prop_map(|(update, discrepancy)| Act::Verified { update, discrepancy }),
        4 => (flag, prop::bool::weighted(0.2)).prop_map(|(discrepancy, old)| Act::Checked { discrepancy, old }),
        4 => (update.clone(), 0..9_u8).prop_map(|(update, days)| Act::Expired { update, days }),
        8 => (update.clone(), flag).prop_map(|(update, blocked)| Act::SetPlan { update, blocked }),
        3 => (node.clone(), 0..4_u8).prop_map(|(node, what)| Act::Raft { node, what }),
        1 => node.clone().prop_map(|node| Act::Remove { node }),
        2 => Just(Act::Again),
        2 => any::<u16>().prop_map(|seconds| Act::Back { seconds }),
        2 => (update.clone(), 0..5_u8).prop_map(|(update, what)| Act::Decide { update, what }),
        1 => submit().prop_map(Act::Submit),
        1 => update.clone().prop_map(|update| Act::Cancel { update }),
        1 => update.clone().prop_map(|update| Act::Persist { update }),
        2 => update.clone().prop_map(|update| Act::Pause { update }),
        1 => Just(Act::RemovePackage),
        2 => update.prop_map(|update| Act::Resume { update }),
        1 => (node, flag).prop_map(|(node, add)| Act::Class { node, add }),
    ]
}

fn submit() -> impl Strategy<Value = Submit> {
    let flag = any::<bool>();
    (flag, 0..3_u8, flag, flag, flag).prop_map(|(regress, on_failure, one_wave, force, ephemeral)| Submit {
        regress,
        on_failure,
        one_wave,
        force,
        ephemeral,
    })
}

/// A record with one update that is being asked and one that waits behind it. Made once for each kind of update, and cloned.
#[derive(Clone)]
struct Start {
    record: Record,
    index: u64,
    app: Manifest,
    /// The record as it would lie on disk.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn start(submit: &Submit) -> Start {
    let mut fleet = Fleet::new(&NAMES);
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main" })]);
    fleet.publish(&app);
    for _ in 0..2 {
        let entry = entry(&mut fleet, &app, &Act::Submit(submit.clone()), None);
        fleet.apply(&entry).unwrap();
    }
    fleet.record.take_changes();
    let disk = bytes(&fleet.record).into_iter().collect();
    Start { record: fleet.record.clone(), index: fleet.index, app, disk }
}

fn name(number: u8) -> NodeName {
    // The last is no node of the cluster.
    node(["a", "b", "c", "zz"][usize::from(number % 4)])
}

fn plan(app: &Manifest, record: &Record, one_wave: bool) -> Plan {
    let module = PlannedModule { package: app.id(), index: 0, signature: app.modules[0].signature, size: 1000 };
    let change = PackageChange { name: app.name.clone(), from: None, to: Some(app.id()) };
    let one = NodePlan { changes: vec![change], modules: BTreeMap::from([("app/main".into(), module)]), local: false };
    let all: Vec<_> = NAMES.iter().map(|name| node(name)).collect();
    Plan {
        revision: 1,
        nodes: all.iter().map(|name| (name.clone(), one.clone())).collect(),
        waves: if one_wave { vec![all] } else { all.into_iter().map(|name| vec![name]).collect() },
        read: record.nodes().values().map(|node| (format!("node/{}", node.name), node.version)).collect(),
        ..Plan::default()
    }
}

fn report(what: u8) -> NodeReport {
    let current = Generation { number: u64::from(what), ..Generation::default() };
    match what {
        0 => NodeReport::Asked { processes: vec![process("svc", 1)] },
        1 => NodeReport::Staged,
        2 => NodeReport::Released,
        3 => NodeReport::Pending,
        4 => NodeReport::Ready,
        5 => NodeReport::Started,
        6 => NodeReport::Settled { current },
        7 => NodeReport::Regressed { current, why: None },
        8 => NodeReport::Regressed { current, why: Some("unhealthy".into()) },
        9 => NodeReport::Restarted { current },
        10 => NodeReport::Running {
            software: Ephemeral { update: UpdateId(1), packages: current.packages, modules: current.modules },
        },
        _ => NodeReport::Failed { step: Step::Go, why: "the disk is full".into() },
    }
}

fn unmet() -> Discrepancy {
    Discrepancy {
        node: node("a"),
        module: "app/main".into(),
        needs: "x@^1".into(),
        found: "nothing".into(),
        scope: Scope::BetweenNodes,
    }
}

fn decision(what: u8) -> Decision {
    match what {
        0 => Decision::Abort,
        1 => Decision::AskAgain,
        2 => Decision::Only { nodes: nodes(&["a", "b"]) },
        3 => Decision::Only { nodes: BTreeSet::new() },
        _ => Decision::Force { why: "now".into() },
    }
}

/// Makes an act into an entry for the record as it is.
fn entry(fleet: &mut Fleet, app: &Manifest, act: &Act, last: Option<&Entry>) -> Entry {
    let update = |number: &u8| UpdateId(u64::from(*number) + 1);
    let master =
        |fleet: &Fleet, command| Entry { time: fleet.time, body: tribune_raft_store::command::Body::Master(Box::new(command)) };
    let reported = |fleet: &Fleet, id: &u8, number: u8, report| {
        let row = fleet.record.updates().get(&update(id));
        let progress = row.and_then(|row| row.nodes.get(&name(number)));
        let revision = row.and_then(|row| row.plan.as_ref()).map_or(1, |plan| plan.revision);
        let round = progress.map_or(1, |progress| progress.round);
        master(fleet, MasterCommand::Report { update: update(id), node: name(number), revision, round, report })
    };
    match act {
        Act::Submit(Submit { regress, on_failure, one_wave, force, ephemeral }) => {
            let mut request = install(&NAMES, &[app.id()]);
            request.kind = if *regress { UpdateKind::Regress } else { UpdateKind::Install };
            request.options.on_failure =
                [OnFailure::RegressAll, OnFailure::RegressNode, OnFailure::Hold][usize::from(*on_failure)];
            request.options.ephemeral = *ephemeral;
            request.options.force = force.then(|| "it burns".to_owned());
            let plan = plan(app, &fleet.record, *one_wave);
            fleet.signed(UserCommand::Submit { request }, Some(Evidence::Plan(plan)))
        }
        Act::Vote { update, node, veto, lapsed, pid } => {
            let ballot = if *veto { vetoes(process("svc", *pid), "no") } else { accepts(process("svc", *pid)) };
            let ballots = vec![BallotCast { lapsed: *lapsed, ..ballot }];
            reported(fleet, update, *node, NodeReport::Voted { ballots })
        }
        Act::Report { update, node, what } => reported(fleet, update, *node, report(*what)),
        Act::Go { update: id, mask } => {
            let nodes = (0..3).filter(|bit| mask & (1 << bit) != 0).map(name).collect();
            master(fleet, MasterCommand::Go { update: update(id), nodes })
        }
        Act::Away { update: id, node } => master(fleet, MasterCommand::Away { update: update(id), node: name(*node) }),
        Act::Decide { update: id, what } => {
            let seen = fleet.record.updates().get(&update(id)).map_or(0, |row| row.ballot_revision);
            let mut plan = plan(app, &fleet.record, false);
            plan.nodes.remove(&node("c"));
            plan.waves.pop();
            let order = UserCommand::Decide { update: update(id), ballot_revision: seen, decision: decision(*what) };
            fleet.signed(order, Some(Evidence::Plan(plan)))
        }
        Act::Persist { update: id } => fleet.signed(UserCommand::Persist { update: update(id) }, None),
        Act::Pause { update: id } => fleet.signed(UserCommand::Pause { update: update(id) }, None),
        Act::Resume { update: id } => fleet.signed(UserCommand::Resume { update: update(id) }, None),
        Act::RemovePackage => fleet.signed(UserCommand::RemovePackage { package: app.id() }, None),
        Act::Cancel { update: id } => fleet.signed(UserCommand::Cancel { update: update(id) }, None),
        Act::Verified { update: id, discrepancy } => {
            let discrepancies = discrepancy.then(unmet).into_iter().collect();
            master(fleet, MasterCommand::Verified { update: update(id), discrepancies })
        }
        Act::Checked { discrepancy, old } => {
            let installed = fleet.record.cluster().map_or(0, |cluster| cluster.installed).saturating_sub(u64::from(*old));
            let discrepancies = discrepancy.then(unmet).into_iter().collect();
            master(fleet, MasterCommand::Checked { installed, discrepancies, left_out: 0 })
        }
        Act::Expired { update: id, days } => {
            let waited = Span::from_secs(u64::from(*days) * 86_400);
            master(fleet, MasterCommand::DecideExpired { update: update(id), waited })
        }
        Act::SetPlan { update: id, blocked } => {
            let mut plan = plan(app, &fleet.record, true);
            plan.blockers.extend(blocked.then(|| Blocker::NodeAway { node: node("a") }));
            master(fleet, MasterCommand::SetPlan { update: update(id), plan })
        }
        Act::Class { node, add } => {
            let (some, none) = (BTreeSet::from([name(*node)]), BTreeSet::new());
            let (add, remove) = if *add { (some, none) } else { (none, some) };
            fleet.signed(UserCommand::SetClass { class: "edge".parse().unwrap(), add, remove }, None)
        }
        Act::Raft { node, what } => {
            let node = name(*node);
            let command = match what {
                0 => MasterCommand::MakeStandby { node },
                1 => MasterCommand::MakeVoter { node },
                2 => MasterCommand::MakeMember { node },
                _ => MasterCommand::NodeState {
                    node,
                    facts: facts(),
                    current: Generation::default(),
                    ephemeral: None,
                    kept: BTreeMap::new(),
                    apart: None,
                },
            };
            master(fleet, command)
        }
        Act::Remove { node } => fleet.signed(UserCommand::RemoveNode { node: name(*node) }, None),
        Act::Again => last.cloned().unwrap_or_else(|| master(fleet, fleet.birth("a"))),
        Act::Back { seconds } => {
            fleet.time = Timestamp(fleet.time.0.saturating_sub(u64::from(*seconds) * 1000));
            master(fleet, MasterCommand::DecideExpired { update: UpdateId(1), waited: Span::from_secs(1) })
        }
    }
}

fn bytes(record: &Record) -> Vec<(Vec<u8>, Vec<u8>)> {
    record.entries().collect()
}

/// What must hold of every record.
fn check(record: &Record) -> Result<(), TestCaseError> {
    let mut held: BTreeSet<&NodeName> = BTreeSet::new();
    for id in record.nodes().values().flat_map(|node| node.current.packages.values()) {
        prop_assert!(record.packages().contains(id), "a package that a node has is not in the store");
    }
    for update in record.updates().values().filter(|update| !update.phase.ended()) {
        let running = !matches!(update.phase, Phase::Queued { .. });
        prop_assert!(running || update.nodes.is_empty());
        for name in update.nodes.keys().filter(|name| update.holds(name)) {
            prop_assert!(held.insert(name), "node {name} is in two updates at once");
        }
        if matches!(update.phase, Phase::Asking | Phase::Vetoed | Phase::Distributing) {
            prop_assert!(update.nodes.values().all(|node| !node.changed), "a node changed over before all had staged");
        }
        for (name, node) in update.nodes.iter().filter(|(_, node)| node.gone) {
            let over = if node.changed {
                matches!(node.step, Step::Failed | Step::Regressed)
            } else {
                node.step == Step::Away || node.left_behind
            };
            prop_assert!(over, "node {name} was removed, and is {} in {}", node.step, update.id);
        }
        for name in waits_for(record, update) {
            prop_assert!(!update.nodes[&name].gone, "{} waits for {name}, which was removed", update.id);
        }
        let vetoed = update.nodes.values().any(|node| node.ballots.iter().any(|ballot| ballot.standing_veto().is_some()));
        if matches!(update.phase, Phase::Distributing | Phase::Wave { .. } | Phase::Paused { .. }) {
            prop_assert!(!vetoed, "a veto that stands did not stop it");
        }
    }
    Ok(())
}

/// The nodes that an update waits for.
fn waits_for(record: &Record, update: &Update) -> Vec<NodeName> {
    match record.waiting(update).map(|waiting| waiting.waiting_for) {
        Some(
            WaitingFor::Answers { nodes, .. }
            | WaitingFor::Staging { nodes }
            | WaitingFor::Persist { nodes }
            | WaitingFor::Installing { nodes }
            | WaitingFor::Regress { nodes },
        ) => nodes,
        Some(WaitingFor::Changeover { nodes }) => nodes.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_give_the_same_bytes_twice_and_a_snapshot_is_the_record(first in submit(), acts in prop::collection::vec(act(), 1..24)) {
        thread_local! {
            static STARTS: RefCell<BTreeMap<Submit, Start>> = const { RefCell::new(BTreeMap::new()) };
        }
        let start = STARTS.with_borrow_mut(|starts| starts.entry(first).or_insert_with_key(start).clone());
        let mut fleet = Fleet::with(start.record.clone(), start.index);
        let mut other = start.record.clone();
        let mut disk = start.disk;
        let mut last: Option<Entry> = None;
        for act in &acts {
            let entry = entry(&mut fleet, &start.app, act, last.as_ref());
            let first = fleet.apply(&entry);
            prop_assert_eq!(first, other.apply(fleet.place(), &entry));
            let changes = other.take_changes();
            prop_assert_eq!(&fleet.record.take_changes(), &changes);
            for change in changes {
                match change.value {
                    Some(value) => disk.insert(change.key, value),
                    None => disk.remove(&change.key),
                };
            }
            check(&other)?;
            last = Some(entry);
        }
        let whole = bytes(&fleet.record);
        prop_assert_eq!(&whole, &disk.into_iter().collect::<Vec<_>>(), "the changes written to disk are not the record");
        // Reading a record back takes longer than making it: every few sequences will do.
        if acts.len().is_multiple_of(RESTORED) {
            let restored = Record::from_entries(whole.clone()).unwrap();
            prop_assert_eq!(&whole, &bytes(&restored));
            prop_assert_eq!(&whole, &bytes(&other));
        }
    }
}
