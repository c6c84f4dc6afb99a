//! Which update goes before which.

use std::collections::BTreeSet;

use serde_json::json;
use tribune_master::{MasterClock, directives, due};
use tribune_messages::node::Want;
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, accepts, install, node, process, vetoes};
use crate::setup::{all_there, class, has, planned, publish, regress};

const RUN: &str = "main";

fn submit(fleet: &mut Fleet, request: UpdateRequest) -> UpdateId {
    let plan = planned(fleet, &request);
    assert_eq!(plan.blockers, []);
    fleet.submit(request, plan)
}

fn behind(fleet: &Fleet, id: UpdateId) -> Vec<UpdateId> {
    match fleet.phase(id) {
        Phase::Queued { behind } => behind.clone(),
        _ => Vec::new(),
    }
}

/// Lets what waits in line begin, if its turn has come.
fn turn(fleet: &mut Fleet) {
    for command in due(&fleet.record, &all_there(fleet), MasterClock(20_000), Some(&node("a"))) {
        if matches!(command, MasterCommand::SetPlan { .. }) {
            fleet.tell(command).unwrap();
        }
    }
}

fn module(fields: serde_json::Value) -> serde_json::Value {
    let mut module = json!({ "name": RUN, "run": [RUN] });
    for (key, value) in fields.as_object().into_iter().flatten() {
        module[key] = value.clone();
    }
    module
}

#[test]
fn updates_that_share_nothing_go_side_by_side() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let app = publish(&mut fleet, "app", "1.0.0", &[module(json!({}))]);
    let first = submit(&mut fleet, install(&["a"], &[app]));
    let second = submit(&mut fleet, install(&["b"], &[app]));
    assert_eq!((fleet.phase(first), fleet.phase(second)), (&Phase::Asking, &Phase::Asking));
}

#[test]
fn an_update_of_a_class_waits_for_another_of_the_same_class() {
    let mut fleet = Fleet::new(&["a", "b"]);
    class(&mut fleet, "edge", &["a", "b"]);
    let app = publish(&mut fleet, "app", "1.0.0", &[module(json!({}))]);
    let other = publish(&mut fleet, "other", "1.0.0", &[module(json!({}))]);
    let to_class = |package| {
        let mut request = install(&[], &[]);
        request.targets.classes.insert("edge".parse().unwrap(), [package].into());
        request
    };
    has(&mut fleet, "a", &[app]);
    // The first changes b only, the second a only: both are for the class.
    let first = submit(&mut fleet, to_class(app));
    has(&mut fleet, "b", &[other]);
    let second = submit(&mut fleet, to_class(other));
    assert_eq!(behind(&fleet, second), [first]);
}

#[test]
fn who_changes_an_api_waits_for_who_needs_it_and_those_who_need_it_do_not_wait_for_each_other() {
    let mut fleet = Fleet::new(&["a", "b", "c", "d"]);
    let rates = publish(&mut fleet, "rates", "1.0.0", &[module(json!({ "provides": ["rates.api@1.0.0"] }))]);
    let newer = publish(&mut fleet, "rates", "1.1.0", &[module(json!({ "provides": ["rates.api@1.1.0"] }))]);
    let user = publish(&mut fleet, "user", "1.0.0", &[module(json!({ "consumes": ["rates.api@^1"] }))]);
    has(&mut fleet, "a", &[rates]);
    let first = submit(&mut fleet, install(&["b"], &[user]));
    let second = submit(&mut fleet, install(&["c"], &[user]));
    assert_eq!(*fleet.phase(second), Phase::Asking, "both only need it");
    let change = submit(&mut fleet, install(&["a"], &[newer]));
    assert_eq!(behind(&fleet, change), [first, second]);
    let third = submit(&mut fleet, install(&["d"], &[user]));
    assert_eq!(behind(&fleet, third), [change], "it came after who changes it");
}

/// Two nodes have `app` 1.0.0, and an update to 2.0.0 of both is being asked.
fn app_2(fleet: &mut Fleet) -> (UpdateId, PackageId) {
    let one = publish(fleet, "app", "1.0.0", &[module(json!({}))]);
    let two = publish(fleet, "app", "2.0.0", &[module(json!({}))]);
    for name in ["a", "b"] {
        has(fleet, name, &[one]);
    }
    (submit(fleet, install(&["a", "b"], &[two])), one)
}

/// Both nodes of an update agree, and stage.
fn stage(fleet: &mut Fleet, update: UpdateId) {
    for name in ["a", "b"] {
        fleet.vote(update, name, &[]);
    }
    for name in ["a", "b"] {
        fleet.report(update, name, NodeReport::Staged).unwrap();
    }
}

#[test]
fn a_regress_takes_its_node_out_of_an_update_that_has_not_changed_it() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (update, _) = app_2(&mut fleet);
    fleet.vote(update, "a", &[accepts(process("svc", 1))]);
    fleet.vote(update, "b", &[vetoes(process("svc", 1), "not now")]);
    assert_eq!(*fleet.phase(update), Phase::Vetoed);
    let back = submit(&mut fleet, regress("b", &[]));
    assert_eq!(*fleet.phase(back), Phase::Asking);
    assert_eq!(*fleet.phase(update), Phase::Distributing, "the veto went with the node");
    let plan = fleet.update(update).plan.clone().unwrap();
    assert_eq!((plan.revision, &plan.left_out[&node("b")]), (2, &LeftOut::ByRegress));
    fleet.report(update, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(update, "a");
    fleet.change_over(update, "a");
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::CompletedInPart });
}

#[test]
fn a_regress_of_a_node_that_has_changed_holds_the_update_and_leaves_the_node_alone_afterwards() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (update, one) = app_2(&mut fleet);
    stage(&mut fleet, update);
    fleet.become_ready(update, "b");
    fleet.change_over(update, "b");
    assert_eq!(*fleet.phase(update), Phase::Wave { wave: 1 });
    let back = submit(&mut fleet, regress("b", &[]));
    assert_eq!((fleet.phase(back), fleet.phase(update)), (&Phase::Asking, &Phase::Held { wave: 1 }));
    fleet.decide(update, Decision::Abort, None).unwrap();
    assert!(fleet.phase(update).ended(), "nothing that it holds has changed: {:?}", fleet.phase(update));
    fleet.vote(back, "b", &[]);
    fleet.report(back, "b", NodeReport::Staged).unwrap();
    fleet.become_ready(back, "b");
    fleet.change_over(back, "b");
    fleet.tell(MasterCommand::Verified { update: back, discrepancies: Vec::new() }).unwrap();
    assert_eq!(fleet.node("b").should.values().collect::<Vec<_>>(), [&one]);
}

#[test]
fn a_regress_waits_for_a_node_that_is_in_the_middle_of_its_changeover() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (update, _) = app_2(&mut fleet);
    stage(&mut fleet, update);
    fleet.become_ready(update, "b");
    fleet.tell(MasterCommand::Go { update, nodes: [node("b")].into() }).unwrap();
    let back = submit(&mut fleet, regress("b", &[]));
    assert_eq!(behind(&fleet, back), [update]);
    turn(&mut fleet);
    assert_eq!(behind(&fleet, back), [update]);
    let plan = fleet.update(update).plan.clone().unwrap();
    fleet.report(update, "b", NodeReport::Started).unwrap();
    let current = fleet.generation("b", &plan.nodes[&node("b")]);
    fleet.report(update, "b", NodeReport::Settled { current }).unwrap();
    turn(&mut fleet);
    assert_eq!((fleet.phase(back), fleet.phase(update)), (&Phase::Asking, &Phase::Held { wave: 1 }));
}

#[test]
fn a_regress_that_takes_the_last_node_ends_the_update() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let one = publish(&mut fleet, "app", "1.0.0", &[module(json!({}))]);
    let two = publish(&mut fleet, "app", "2.0.0", &[module(json!({}))]);
    has(&mut fleet, "b", &[one]);
    let update = submit(&mut fleet, install(&["b"], &[two]));
    let back = submit(&mut fleet, regress("b", &[]));
    assert_eq!(*fleet.phase(back), Phase::Asking);
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::Aborted });
    let next = submit(&mut fleet, install(&["b"], &[two]));
    assert_eq!(behind(&fleet, next), [back]);
}

/// An update of two nodes to a package whose data cannot go back, of which the first is ready.
fn ready_for_good(on_failure: OnFailure) -> (Fleet, UpdateId) {
    let mut fleet = Fleet::new(&["a", "b"]);
    let manifest = crate::fleet::manifest("app", "1.0.0", json!({ "regress": "no" }), &[module(json!({}))]);
    let app = fleet.publish(&manifest);
    let mut request = install(&["a", "b"], &[app]);
    request.options.on_failure = on_failure;
    let update = submit(&mut fleet, request);
    stage(&mut fleet, update);
    fleet.become_ready(update, "b");
    (fleet, update)
}

/// The same, with the first of the two changed over.
fn half_done() -> (Fleet, UpdateId) {
    let (mut fleet, update) = ready_for_good(OnFailure::RegressAll);
    fleet.change_over(update, "b");
    (fleet, update)
}

/// The same, with the first of the two lost after its go, and a user who goes on without it.
fn half_lost() -> (Fleet, UpdateId) {
    let (mut fleet, update) = ready_for_good(OnFailure::RegressNode);
    fleet.tell(MasterCommand::Go { update, nodes: [node("b")].into() }).unwrap();
    fleet.tell(MasterCommand::Away { update, node: node("b") }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Held { wave: 0 }, "a user decides, as it cannot go back");
    let about = format!("{:?}", fleet.record.waiting(fleet.update(update)).unwrap().waiting_for);
    assert!(about.contains("node b has been away for too long; what it changed there stays"), "{about}");
    fleet.decide(update, Decision::Force { why: "go on without it".into() }, None).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Wave { wave: 1 });
    (fleet, update)
}

fn wanted(fleet: &Fleet, name: &str) -> Vec<Want> {
    directives(&fleet.record, &node(name), &BTreeSet::new()).into_iter().map(|directive| directive.want).collect()
}

#[test]
fn a_lost_node_whose_data_cannot_go_back_stays_as_it_is() {
    let (mut fleet, update) = half_lost();
    assert_eq!(wanted(&fleet, "b"), [Want::Hold]);
    fleet.become_ready(update, "a");
    fleet.change_over(update, "a");
    assert_eq!((fleet.phase(update), wanted(&fleet, "b")), (&Phase::Verifying, vec![Want::Hold]));
    let took_the_old_back = NodeReport::Regressed { current: Generation::default(), why: Some("it was late".into()) };
    let mut other = Fleet::with(fleet.record.clone(), fleet.index);
    other.report(update, "b", took_the_old_back).unwrap();
    assert_eq!(*other.phase(update), Phase::Verifying, "its own failure takes nothing back elsewhere");
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::CompletedInPart });
    let why = fleet.update(update).nodes[&node("b")].failure.clone().unwrap();
    assert!(why.ends_with("as its data cannot go back"), "{why}");
    // Where it has the new version it is right, and else it comes to it: there is no other way for it to go.
    assert_eq!((fleet.node("b").should.len(), &fleet.node("b").should), (1, &fleet.node("a").should));
}

#[test]
fn a_lost_node_whose_data_cannot_go_back_counts_as_settled_when_it_comes_back_so() {
    let (mut fleet, update) = half_lost();
    let current = fleet.generation("b", &fleet.update(update).plan.clone().unwrap().nodes[&node("b")]);
    fleet.report(update, "b", NodeReport::Settled { current }).unwrap();
    assert_eq!(fleet.update(update).nodes[&node("b")].failure, None);
    fleet.become_ready(update, "a");
    fleet.change_over(update, "a");
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::Completed });
    assert!(fleet.node("b").has_what_it_should());
}

#[test]
fn an_update_whose_data_cannot_go_back_stops_where_it_is_when_it_is_cancelled() {
    for paused in [false, true] {
        let (mut fleet, update) = half_done();
        if paused {
            fleet.order(UserCommand::Pause { update }, None).unwrap();
            fleet.vote(update, "a", &[vetoes(process("svc", 1), "not now")]);
        }
        stops_where_it_is(&mut fleet, update);
    }
}

fn stops_where_it_is(fleet: &mut Fleet, update: UpdateId) {
    fleet.order(UserCommand::Cancel { update }, None).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!((fleet.node("b").should.len(), fleet.node("a").should.len()), (1, 0));
    let row = fleet.update(update);
    assert_eq!(row.plan.as_ref().unwrap().left_out[&node("a")], LeftOut::CalledOff);
    assert!(row.reason.as_ref().unwrap().contains("cannot go back"), "{:?}", row.reason);
    assert!(fleet.record.tombstones().is_empty());
}

#[test]
fn one_whose_data_cannot_go_back_waits_for_the_node_that_is_changing_over_when_it_is_cancelled() {
    let (mut fleet, update) = half_done();
    fleet.become_ready(update, "a");
    fleet.tell(MasterCommand::Go { update, nodes: [node("a")].into() }).unwrap();
    fleet.order(UserCommand::Cancel { update }, None).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Wave { wave: 1 });
    let current = fleet.generation("a", &fleet.update(update).plan.clone().unwrap().nodes[&node("a")]);
    fleet.report(update, "a", NodeReport::Settled { current }).unwrap();
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::Completed }, "nothing was left to leave out");
}

#[test]
fn a_node_that_goes_away_before_its_changeover_counts_as_a_veto() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (update, _) = app_2(&mut fleet);
    fleet.vote(update, "a", &[accepts(process("svc", 1))]);
    fleet.tell(MasterCommand::Away { update, node: node("b") }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Vetoed);
    fleet.decide(update, Decision::AskAgain, None).unwrap();
    assert_eq!((fleet.phase(update), fleet.step(update, "b")), (&Phase::Asking, Step::Planned));
    fleet.tell(MasterCommand::Away { update, node: node("b") }).unwrap();
    // Forced, it goes on without the node: that has nothing to change over with.
    fleet.decide(update, Decision::Force { why: "it burnt down".into() }, None).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Distributing);
    fleet.report(update, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(update, "a");
    fleet.change_over(update, "a");
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Ended { outcome: Outcome::CompletedInPart });
}

#[test]
fn a_node_that_goes_away_between_the_changeovers_of_others_holds_the_update() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (update, _) = app_2(&mut fleet);
    stage(&mut fleet, update);
    fleet.become_ready(update, "b");
    fleet.change_over(update, "b");
    fleet.tell(MasterCommand::Away { update, node: node("a") }).unwrap();
    assert_eq!(*fleet.phase(update), Phase::Held { wave: 1 });
    let about = fleet.record.waiting(fleet.update(update)).unwrap().waiting_for;
    assert!(format!("{about:?}").contains("node a has been away for too long"), "{about:?}");
}
