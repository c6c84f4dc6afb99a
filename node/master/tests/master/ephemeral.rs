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
    for name in ALL {
        fleet.become_ready(id, name);
    }
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&ALL) }).unwrap();
    (fleet, id)
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
