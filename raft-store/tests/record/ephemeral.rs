//! The life of an update whose software is not kept, entry by entry.

use std::collections::BTreeMap;

use serde_json::json;
use tribune_raft_store::command::{MasterCommand, Rejection, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::WaitingFor;

use crate::fleet::{Fleet, accepts, install, manifest, node, nodes, process};

const ALL: [&str; 2] = ["a", "b"];

/// Two nodes that run an ephemeral update, each in a wave of its own, and the update.
fn running() -> (Fleet, UpdateId) {
    let (mut fleet, id) = staged(UpdateOptions::default());
    for name in ALL {
        starts(&mut fleet, id, name);
        fleet.report(id, name, runs(&fleet, id, name)).unwrap();
    }
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    (fleet, id)
}

/// Two nodes that have staged an ephemeral update, which has these other options.
fn staged(options: UpdateOptions) -> (Fleet, UpdateId) {
    let mut fleet = Fleet::new(&ALL);
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let package = fleet.publish(&app);
    let module = PlannedModule { package, index: 0, signature: app.modules[0].signature, size: 1000 };
    let change = PackageChange { name: app.name.clone(), from: None, to: Some(package) };
    let one = NodePlan { changes: vec![change], modules: BTreeMap::from([("app/main".into(), module)]), local: false };
    let plan = Plan {
        revision: 1,
        nodes: ALL.iter().map(|name| (node(name), one.clone())).collect(),
        waves: ALL.iter().map(|name| vec![node(name)]).collect(),
        ..Plan::default()
    };
    let mut request = install(&ALL, &[package]);
    request.options = UpdateOptions { ephemeral: true, ..options };
    let class = "web".parse().unwrap();
    fleet.order(UserCommand::SetClass { class, add: nodes(&ALL), remove: nodes(&[]) }, None).unwrap();
    request.targets.classes.insert("web".parse().unwrap(), [package].into());
    let id = fleet.submit(request, plan);
    for name in ALL {
        fleet.vote(id, name, &[accepts(process("svc", 1))]);
    }
    for name in ALL {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
    (fleet, id)
}

/// The new modules run on a node.
fn starts(fleet: &mut Fleet, id: UpdateId, name: &str) {
    fleet.become_ready(id, name);
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&[name]) }).unwrap();
    fleet.report(id, name, NodeReport::Started).unwrap();
}

fn restarted() -> NodeReport {
    NodeReport::Restarted { current: Generation::default() }
}

fn back(why: Option<&str>) -> NodeReport {
    NodeReport::Regressed { current: Generation::default(), why: why.map(str::to_owned) }
}

fn class_should(fleet: &Fleet) -> usize {
    fleet.record.classes().values().map(|class| class.should.len()).sum()
}

/// What a node says of what it runs.
fn runs(fleet: &Fleet, id: UpdateId, name: &str) -> NodeReport {
    let plan = fleet.update(id).plan.clone().unwrap();
    let Generation { packages, modules, .. } = fleet.generation(name, &plan.nodes[&node(name)]);
    NodeReport::Running { software: Ephemeral { update: id, packages, modules } }
}

/// A node installs what it runs.
fn persists(fleet: &mut Fleet, id: UpdateId, name: &str) {
    let plan = fleet.update(id).plan.clone().unwrap();
    let current = fleet.generation(name, &plan.nodes[&node(name)]);
    fleet.report(id, name, NodeReport::Settled { current }).unwrap();
}

#[test]
fn what_runs_is_not_installed_and_waits_for_somebody_to_persist_it() {
    let (mut fleet, id) = running();
    assert_eq!(*fleet.phase(id), Phase::Unpersisted);
    for name in ALL {
        let row = fleet.node(name);
        assert_eq!((row.current.number, row.should.len(), row.packages().len()), (0, 0, 1), "{name}");
    }
    let waiting = fleet.record.waiting(fleet.update(id)).unwrap();
    assert_eq!(waiting.waiting_for, WaitingFor::Persist { nodes: ALL.map(node).to_vec() });
    assert_eq!(waiting.can, ["tribune update persist u1", "tribune update cancel u1"]);

    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Persisting);
    let again = fleet.order(UserCommand::Persist { update: id }, None);
    assert!(matches!(again, Err(Rejection::Phase { .. })), "{again:?}");
    persists(&mut fleet, id, "a");
    assert_eq!(*fleet.phase(id), Phase::Persisting, "b has not installed it");
    persists(&mut fleet, id, "b");
    assert_eq!(*fleet.phase(id), Phase::Verifying, "what is installed is checked again");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Completed });
    for name in ALL {
        let row = fleet.node(name);
        assert_eq!((row.current.number, row.should.len()), (1, 1), "{name}");
        assert_eq!(row.ephemeral, None, "{name}");
    }
}

#[test]
fn another_update_of_its_nodes_waits_until_it_is_persisted_or_taken_back() {
    let (mut fleet, id) = running();
    let other = UpdateRequest { options: UpdateOptions::default(), ..fleet.update(id).request.clone() };
    let plan = fleet.update(id).plan.clone().unwrap();
    let second = fleet.submit(other, plan);
    assert_eq!(*fleet.phase(second), Phase::Queued { behind: vec![id] });
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    for name in ALL {
        fleet.report(id, name, NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
        assert_eq!(fleet.node(name).ephemeral, None, "{name}");
    }
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
    assert_eq!(fleet.record.tombstones().len(), 2, "a user took it back");
    assert!(fleet.record.waits_for(fleet.update(second)).is_empty());
}

#[test]
fn a_restart_undoes_it_on_that_node_only_and_leaves_no_tombstone() {
    let (mut fleet, id) = running();
    fleet.report(id, "a", restarted()).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Unpersisted, "it runs on b");
    assert_eq!((fleet.step(id, "a"), fleet.step(id, "b")), (Step::Regressed, Step::Settled));
    assert_eq!(fleet.report(id, "a", restarted()), Err(Rejection::Outdated));
    let mut other = Fleet::with(fleet.record.clone(), fleet.index);

    fleet.report(id, "b", restarted()).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed }, "it runs nowhere");
    assert_eq!(fleet.record.tombstones().len(), 0);

    other.order(UserCommand::Persist { update: id }, None).unwrap();
    persists(&mut other, id, "b");
    other.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*other.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!((other.node("a").should.len(), other.node("b").should.len()), (0, 1));
    assert_eq!(other.record.tombstones().len(), 0);
}

#[test]
fn a_node_that_restarts_or_fails_while_others_install_does_not_hold_them_up() {
    let (mut fleet, id) = running();
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    persists(&mut fleet, id, "a");
    let why = Some("the disk is full".to_owned());
    fleet.report(id, "b", NodeReport::Regressed { current: Generation::default(), why }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
}

#[test]
fn a_node_that_never_began_is_in_an_update_that_goes_back_until_the_others_are_back() {
    let (mut fleet, id) = staged(UpdateOptions::default());
    starts(&mut fleet, id, "a");
    fleet.report(id, "a", runs(&fleet, id, "a")).unwrap();
    fleet.report(id, "b", NodeReport::Failed { step: Step::Pending, why: "it was not ready".into() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    assert!(!fleet.update(id).over_for(&node("b")), "its processes would hear another end than those of the others");
    fleet.report(id, "a", back(None)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
}

#[test]
fn only_what_runs_until_a_restart_can_be_persisted_or_undone_by_one() {
    let mut fleet = Fleet::new(&["a"]);
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main" })]);
    let package = fleet.publish(&app);
    let plan = Plan {
        revision: 1,
        nodes: BTreeMap::from([(node("a"), NodePlan::default())]),
        waves: vec![vec![node("a")]],
        ..Plan::default()
    };
    let id = fleet.submit(install(&["a"], &[package]), plan);
    let refused = fleet.order(UserCommand::Persist { update: id }, None);
    assert!(matches!(&refused, Err(Rejection::Phase { why, .. }) if why.contains("by itself")), "{refused:?}");
    assert_eq!(fleet.report(id, "a", restarted()), Err(Rejection::Outdated));
}

#[test]
fn what_runs_on_no_node_is_taken_back_and_changes_nothing_that_should_be() {
    let (mut fleet, id) = staged(UpdateOptions { on_failure: OnFailure::RegressNode, ..UpdateOptions::default() });
    for name in ALL {
        starts(&mut fleet, id, name);
        fleet.report(id, name, back(Some("it crashed"))).unwrap();
    }
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
    assert!(fleet.update(id).reason.as_ref().unwrap().contains("it crashed"), "{:?}", fleet.update(id).reason);
    assert_eq!(class_should(&fleet), 0);
}

#[test]
fn only_what_is_persisted_is_what_a_class_should_have() {
    let (mut fleet, id) = running();
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    assert_eq!(class_should(&fleet), 0);
    persists(&mut fleet, id, "a");
    persists(&mut fleet, id, "b");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(class_should(&fleet), 1);
}

#[test]
fn a_node_that_took_it_back_is_free_for_what_comes_next_while_others_go_on_with_it() {
    let (mut fleet, id) = running();
    let other = UpdateRequest { options: UpdateOptions::default(), ..fleet.update(id).request.clone() };
    let mut plan = fleet.update(id).plan.clone().unwrap();
    plan.nodes.remove(&node("b"));
    plan.waves.pop();
    let second = fleet.submit(other, plan.clone());
    assert_eq!(*fleet.phase(second), Phase::Queued { behind: vec![id] });
    fleet.report(id, "a", back(Some("it was taken back on this node"))).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Unpersisted, "it runs on b");
    assert_eq!(fleet.record.tombstones().len(), 1, "at once: the next update may be of the same package");
    assert!(fleet.record.waits_for(fleet.update(second)).is_empty());

    fleet.tell(MasterCommand::SetPlan { update: second, plan: Plan { revision: 2, ..plan } }).unwrap();
    assert_eq!(*fleet.phase(second), Phase::Asking);
    fleet.vote(second, "a", &[]);
    fleet.report(second, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(second, "a");
    fleet.change_over(second, "a");
    fleet.tell(MasterCommand::Verified { update: second, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(second), Phase::Ended { outcome: Outcome::Completed });
    assert_eq!((fleet.node("a").current.number, fleet.record.tombstones().len()), (1, 0));

    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    fleet.report(id, "b", back(None)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
    assert_eq!(fleet.record.tombstones().iter().map(|(key, _)| key.node.clone()).collect::<Vec<_>>(), [node("b")]);
}

#[test]
fn a_late_report_of_what_was_undone_does_not_say_what_is_installed_by_now() {
    for report in [restarted(), back(Some("it was taken back on this node"))] {
        let (mut fleet, id) = running();
        let row = fleet.node("a").clone();
        let current = Generation { number: 4, ..Generation::default() };
        let state =
            MasterCommand::NodeState { node: node("a"), facts: row.facts, current, ephemeral: None, kept: row.kept, apart: None };
        fleet.tell(state).unwrap();
        fleet.report(id, "a", report).unwrap();
        assert_eq!(fleet.node("a").current.number, 4);
    }
}

#[test]
fn a_restart_in_the_middle_leaves_no_tombstone_on_any_node_and_a_user_who_takes_it_back_does() {
    let (mut fleet, id) = staged(UpdateOptions::default());
    starts(&mut fleet, id, "a");
    fleet.report(id, "a", runs(&fleet, id, "a")).unwrap();
    starts(&mut fleet, id, "b");
    let mut other = Fleet::with(fleet.record.clone(), fleet.index);
    fleet.report(id, "b", restarted()).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    fleet.report(id, "a", back(None)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
    assert_eq!(fleet.record.tombstones().len(), 0);

    other.order(UserCommand::Cancel { update: id }, None).unwrap();
    other.report(id, "b", restarted()).unwrap();
    other.report(id, "a", back(None)).unwrap();
    assert!(other.record.tombstones().iter().any(|(key, _)| key.node == node("a")));
}

#[test]
fn a_report_that_comes_late_in_the_last_check_takes_back_nothing_that_was_persisted() {
    let (mut fleet, id) = running();
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    persists(&mut fleet, id, "a");
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.report(id, "b", restarted()).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!(fleet.node("a").should.len(), 1);
}

#[test]
fn a_node_that_was_away_and_forced_past_is_free_for_what_comes_next_while_others_run_it() {
    let (mut fleet, id) = staged(UpdateOptions::default());
    starts(&mut fleet, id, "a");
    fleet.report(id, "a", runs(&fleet, id, "a")).unwrap();
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    fleet.decide(id, Decision::Force { why: "it is off for the week".into() }, None).unwrap();
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Unpersisted);
    let mut plan = fleet.update(id).plan.clone().unwrap();
    plan.nodes.remove(&node("a"));
    plan.waves.remove(0);
    let package = fleet.update(id).request.targets.nodes[&node("b")].first().copied().unwrap();
    let other = fleet.submit(install(&["b"], &[package]), plan);
    assert_eq!(*fleet.phase(other), Phase::Asking);

    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    assert!(fleet.update(id).over_for(&node("b")), "it is in the other update");
    fleet.report(id, "a", back(None)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
}

/// An update that runs on *a* and has left *b* behind, which was away; it is checked now.
fn without_b(options: UpdateOptions) -> (Fleet, UpdateId) {
    let (mut fleet, id) = staged(options);
    starts(&mut fleet, id, "a");
    fleet.report(id, "a", runs(&fleet, id, "a")).unwrap();
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    fleet.decide(id, Decision::Force { why: "it is off for the week".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    assert!(fleet.update(id).nodes[&node("b")].left_behind);
    (fleet, id)
}

#[test]
fn what_a_node_says_late_that_was_left_behind_changes_nothing() {
    let (mut fleet, id) = without_b(UpdateOptions::default());
    let failed = || NodeReport::Failed { step: Step::Voted, why: "the disk is full".into() };
    let before = fleet.update(id).clone();
    for _ in ["verifying", "unpersisted"] {
        for report in [failed(), restarted(), back(None), NodeReport::Staged] {
            assert_eq!(fleet.report(id, "b", report), Err(Rejection::Outdated), "{}", fleet.phase(id));
        }
        assert_eq!(fleet.update(id).nodes, before.nodes);
        if *fleet.phase(id) == Phase::Verifying {
            fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
        }
    }
    assert_eq!(*fleet.phase(id), Phase::Unpersisted);
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    persists(&mut fleet, id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!((class_should(&fleet), fleet.node("b").should.len()), (1, 1), "it goes on with its class");
}

#[test]
fn a_node_that_counts_as_away_cannot_say_that_it_failed() {
    let (mut fleet, id) = staged(UpdateOptions::default());
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    let failed = NodeReport::Failed { step: Step::Voted, why: "the disk is full".into() };
    assert_eq!(fleet.report(id, "b", failed), Err(Rejection::Outdated));
    assert_eq!((fleet.phase(id), fleet.step(id, "b")), (&Phase::Vetoed, Step::Away));
}

#[test]
fn where_no_node_began_it_is_aborted() {
    let (mut fleet, id) = staged(UpdateOptions::default());
    for name in ALL {
        fleet.tell(MasterCommand::Away { update: id, node: node(name) }).unwrap();
    }
    fleet.decide(id, Decision::Force { why: "they are off for the week".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Aborted });
    assert!(fleet.update(id).reason.as_ref().unwrap().contains("runs on no node"), "{:?}", fleet.update(id).reason);
    assert_eq!((fleet.record.tombstones().len(), class_should(&fleet)), (0, 0));
}

#[test]
fn the_removal_of_a_node_that_was_left_behind_is_no_veto() {
    let (mut fleet, id) = without_b(UpdateOptions::default());
    let vetoes = |fleet: &Fleet| fleet.record.events().values().filter(|event| event.kind == EventKind::Veto).count();
    let before = (vetoes(&fleet), fleet.update(id).ballot_revision);
    fleet.order(UserCommand::RemoveNode { node: node("b") }, None).unwrap();
    assert!(!fleet.record.nodes().contains(&node("b")));
    assert_eq!((vetoes(&fleet), fleet.update(id).ballot_revision), before);
    let progress = &fleet.update(id).nodes[&node("b")];
    assert!(progress.gone && progress.left_behind);
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    fleet.report(id, "a", back(None)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Regressed });
}
