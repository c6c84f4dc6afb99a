//! What nodes are told, what the master proposes and what a plan counts on, where software runs that is not installed.

use std::collections::BTreeSet;

use serde_json::json;
use tribune_master::{MasterClock, directives, due, next_wake};
use tribune_messages::node::Want;
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, accepts, install, node, nodes, process};
use crate::setup::{all_there, has, planned, publish, sentences};

const ALL: [&str; 3] = ["a", "b", "c"];

/// Three nodes that are about to start an ephemeral update, together; a failure takes back that node alone.
fn going() -> (Fleet, UpdateId) {
    let (mut fleet, id) = staged();
    go(&mut fleet, id, &ALL);
    (fleet, id)
}

/// The others run it, and *c*, which was away, was left behind.
fn running_without_c() -> (Fleet, UpdateId) {
    let (mut fleet, id) = staged();
    fleet.tell(MasterCommand::Away { update: id, node: node("c") }).unwrap();
    fleet.decide(id, Decision::Force { why: "it is off for the week".into() }, None).unwrap();
    go(&mut fleet, id, &["a", "b"]);
    run(&mut fleet, id, &["a", "b"]);
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    (fleet, id)
}

fn staged() -> (Fleet, UpdateId) {
    let mut fleet = Fleet::new(&ALL);
    let app = publish(&mut fleet, "app", "1.0.0", &[json!({ "name": "main", "run": ["main"] })]);
    let mut request = install(&ALL, &[app]);
    request.options.ephemeral = true;
    request.options.strategy = RolloutStrategy::Together;
    request.options.on_failure = OnFailure::RegressNode;
    let plan = planned(&fleet, &request);
    let id = fleet.submit(request, plan);
    for name in ALL {
        fleet.vote(id, name, &[accepts(process("svc", 1))]);
    }
    for name in ALL {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
    (fleet, id)
}

fn go(fleet: &mut Fleet, id: UpdateId, names: &[&str]) {
    for name in names {
        fleet.become_ready(id, name);
    }
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(names) }).unwrap();
}

/// These nodes run it.
fn run(fleet: &mut Fleet, id: UpdateId, names: &[&str]) {
    for name in names {
        let plan = fleet.update(id).plan.clone().unwrap();
        let Generation { packages, modules, .. } = fleet.generation(name, &plan.nodes[&node(name)]);
        let software = Ephemeral { update: id, packages, modules };
        fleet.report(id, name, NodeReport::Started).unwrap();
        fleet.report(id, name, NodeReport::Running { software }).unwrap();
    }
}

fn verify(fleet: &mut Fleet, id: UpdateId) {
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
}

fn want(fleet: &Fleet, name: &str) -> Want {
    directives(&fleet.record, &node(name), &BTreeSet::new()).remove(0).want
}

/// What a node should have come to that has not heard how an update ended.
fn want_of(fleet: &Fleet, id: UpdateId, name: &str) -> Want {
    let mut all = directives(&fleet.record, &node(name), &[id].into()).into_iter();
    all.find(|directive| directive.update == id).unwrap().want
}

#[test]
fn a_node_that_was_taken_for_lost_after_its_go_goes_back_when_it_returns() {
    let (mut fleet, id) = going();
    run(&mut fleet, id, &["a", "b"]);
    fleet.tell(MasterCommand::Away { update: id, node: node("c") }).unwrap();
    assert!(matches!(want(&fleet, "c"), Want::Regressed { .. }), "verifying");
    verify(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Unpersisted);
    assert!(matches!(want(&fleet, "c"), Want::Regressed { .. }), "unpersisted");
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    assert!(matches!(want(&fleet, "c"), Want::Regressed { .. }), "persisting");
    assert_eq!((want(&fleet, "a"), want(&fleet, "b")), (Want::Persisted, Want::Persisted));
    fleet.report(id, "c", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
    assert!(matches!(want(&fleet, "c"), Want::Ended { outcome: Outcome::Regressed, .. }));
}

#[test]
fn a_node_where_it_was_undone_hears_that_it_is_over_whatever_the_others_do() {
    let (mut fleet, id) = going();
    run(&mut fleet, id, &ALL);
    verify(&mut fleet, id);
    fleet.report(id, "a", NodeReport::Restarted { current: Generation::default() }).unwrap();
    let over = |fleet: &Fleet| match want(fleet, "a") {
        Want::Ended { outcome: Outcome::Regressed, reason: Some(why) } => why.contains("restarted"),
        _ => false,
    };
    assert!(over(&fleet) && want(&fleet, "b") == Want::Settled);
    let mut other = Fleet::with(fleet.record.clone(), fleet.index);
    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    assert!(over(&fleet) && want(&fleet, "b") == Want::Persisted);
    // Else a node that has forgotten it would ask about it anew.
    other.order(UserCommand::Cancel { update: id }, None).unwrap();
    assert_eq!(*other.phase(id), Phase::Regressing);
    assert!(over(&other) && matches!(want(&other, "b"), Want::Regressed { .. }));
}

#[test]
fn a_node_that_was_away_before_it_was_to_install_or_to_go_back_has_the_whole_time_from_then_on() {
    for command in [UserCommand::Persist { update: UpdateId(1) }, UserCommand::Cancel { update: UpdateId(1) }] {
        let (mut fleet, id) = going();
        assert_eq!(id, UpdateId(1));
        run(&mut fleet, id, &ALL);
        verify(&mut fleet, id);
        let mut liveness = all_there(&fleet);
        liveness.gone(&node("c"), MasterClock(0));
        let then = MasterClock(3_600_000);
        liveness.observe(&fleet.record, MasterClock(1));
        let checked = due(&fleet.record, &liveness, then, None);
        assert!(matches!(checked.as_slice(), [MasterCommand::Checked { .. }]), "it does not matter yet: {checked:?}");
        fleet.tell(checked[0].clone()).unwrap();

        fleet.order(command, None).unwrap();
        liveness.observe(&fleet.record, then);
        let limit = then.after(Span::from_secs(600));
        assert_eq!(due(&fleet.record, &liveness, MasterClock(limit.0 - 1), None), []);
        assert_eq!(next_wake(&fleet.record, &liveness, then), Some(limit));
        assert_eq!(due(&fleet.record, &liveness, limit, None), [MasterCommand::Away { update: id, node: node("c") }]);
    }
}

#[test]
fn what_is_installed_counts_on_no_provider_that_only_runs_until_a_restart() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let ledger = publish(&mut fleet, "ledger", "1.0.0", &[json!({ "name": "d", "provides": ["ledger.api@1.0.0"] })]);
    let billing = publish(&mut fleet, "billing", "1.0.0", &[json!({ "name": "d", "consumes": ["ledger.api@^1"] })]);
    has(&mut fleet, "a", &[ledger]);
    let row = fleet.node("a").clone();
    let ephemeral = Ephemeral { update: UpdateId(9), packages: row.current.packages, modules: row.current.modules };
    let (facts, ephemeral) = (row.facts, Some(ephemeral));
    let current = Generation { number: 2, ..Generation::default() };
    fleet.tell(MasterCommand::NodeState { node: node("a"), facts, current, ephemeral, kept: row.kept, apart: None }).unwrap();

    let mut request = install(&["b"], &[billing]);
    let plan = planned(&fleet, &request);
    assert_eq!(plan.blockers.len(), 1, "{:?}", sentences(&plan));
    assert!(sentences(&plan)[0].contains("nothing once nodes were restarted"), "{:?}", sentences(&plan));
    assert!(plan.read.contains_key("node/a"), "it may be installed there by then: {:?}", plan.read);
    request.options.ephemeral = true;
    assert_eq!(sentences(&planned(&fleet, &request)), [""; 0], "what runs until a restart may count on what does too");
    request.options.ephemeral = false;
    request.options.accept_discrepancies.insert("ledger.api".parse().unwrap());
    assert_eq!(planned(&fleet, &request).accepted.len(), 1);
}

#[test]
fn a_node_with_an_end_of_its_own_hears_that_one_also_when_the_others_have_come_to_theirs() {
    let (mut fleet, id) = running_without_c();
    let ends = |fleet: &Fleet, name: &str, phase: &str| match want_of(fleet, id, name) {
        Want::Ended { outcome, reason: Some(why) } => (outcome, why),
        other => panic!("{phase}: {other:?}"),
    };
    let left_behind = |fleet: &Fleet, phase: &str| {
        let (outcome, why) = ends(fleet, "c", phase);
        assert!(outcome == Outcome::Aborted && why.contains("away"), "{phase}: {outcome}, {why}");
    };
    let taken_back = |fleet: &Fleet, phase: &str| {
        assert_eq!(ends(fleet, "a", phase), (Outcome::Regressed, "a user wished it".to_owned()), "{phase}");
    };
    left_behind(&fleet, "verifying");
    verify(&mut fleet, id);
    left_behind(&fleet, "unpersisted");
    fleet
        .report(id, "a", NodeReport::Regressed { current: Generation::default(), why: Some("a user wished it".into()) })
        .unwrap();
    taken_back(&fleet, "unpersisted");

    let mut other = Fleet::with(fleet.record.clone(), fleet.index);
    other.order(UserCommand::Cancel { update: id }, None).unwrap();
    left_behind(&other, "regressing");
    taken_back(&other, "regressing");
    other.report(id, "b", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
    assert_eq!(*other.phase(id), Phase::Ended { outcome: Outcome::Regressed });
    left_behind(&other, "regressed");

    fleet.order(UserCommand::Persist { update: id }, None).unwrap();
    left_behind(&fleet, "persisting");
    taken_back(&fleet, "persisting");
    let plan = fleet.update(id).plan.clone().unwrap();
    let current = fleet.generation("b", &plan.nodes[&node("b")]);
    fleet.report(id, "b", NodeReport::Settled { current }).unwrap();
    left_behind(&fleet, "checked again");
    verify(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    left_behind(&fleet, "completed");
    taken_back(&fleet, "completed");
    assert_eq!(want_of(&fleet, id, "b"), Want::Ended { outcome: Outcome::CompletedInPart, reason: None });
}
