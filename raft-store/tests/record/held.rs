//! What a late veto does, and what a user can do about it.

use std::collections::BTreeSet;

use tribune_raft_store::command::{MasterCommand, Rejection, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, accepts, install, node, nodes, process, vetoes};
use crate::stories::{all_accept, all_staged, ended, fleet, plan};

/// An update of b, c and then a, which b has been changed over by.
fn begun() -> (Fleet, UpdateId) {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    (fleet, id)
}

/// The same, held by a veto on c.
fn held() -> (Fleet, UpdateId) {
    let (mut fleet, id) = begun();
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    (fleet, id)
}

fn can(fleet: &Fleet, id: UpdateId) -> Vec<String> {
    fleet.record.waiting(fleet.update(id)).unwrap().can
}

#[test]
fn a_held_update_can_ask_the_rest_again_and_goes_on_where_it_stopped_when_they_accept() {
    let (mut fleet, id) = held();
    assert_eq!(can(&fleet, id).iter().filter(|command| command.contains("--ask-again")).count(), 1);
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking);
    let steps = ["a", "b", "c"].map(|name| fleet.step(id, name));
    assert_eq!(steps, [Step::Staged, Step::Settled, Step::Planned], "only where it was vetoed");
    fleet.vote(id, "c", &[accepts(process("svc", 1))]);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
    fleet.report(id, "c", NodeReport::Staged).unwrap();
    for name in ["c", "a"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Completed));
}

#[test]
fn a_held_update_that_is_vetoed_again_is_held_again_and_one_that_fails_meanwhile_goes_back() {
    let (mut fleet, id) = held();
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "still")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.tell(MasterCommand::Away { update: id, node: node("c") }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 2 }, "away before its changeover, it counts as a veto");
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.report(id, "c", NodeReport::Failed { step: Step::Asked, why: "its disk broke".into() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
}

#[test]
fn asking_the_rest_again_does_not_wait_for_a_node_that_failed_when_failures_are_left_to_others() {
    let (mut fleet, mut request, plan) = fleet();
    request.options.on_failure = OnFailure::RegressNode;
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.report(id, "c", NodeReport::Failed { step: Step::Asked, why: "its disk broke".into() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 2 }, "it goes on without c");
}

#[test]
fn a_late_veto_lets_every_node_go_that_was_getting_ready() {
    let (mut fleet, mut request, mut plan) = fleet();
    plan.waves = vec![vec![node("b")], vec![node("a"), node("c")]];
    request.options.strategy = RolloutStrategy::Together;
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.become_ready(id, "a");
    fleet.report(id, "c", NodeReport::Pending).unwrap();
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    assert_eq!((fleet.step(id, "a"), fleet.step(id, "c")), (Step::Staged, Step::Staged));
    let go = MasterCommand::Go { update: id, nodes: nodes(&["a"]) };
    assert_eq!(fleet.tell(go), Err(Rejection::Outdated));
}

#[test]
fn who_was_overruled_late_cannot_veto_again_but_its_successor_can() {
    let (mut fleet, id) = held();
    fleet.decide(id, Decision::Force { why: "go on".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "once more")]);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "once more"), vetoes(process("svc", 9), "I am new")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
}

#[test]
fn a_late_veto_that_lapsed_is_shown_so_and_moves_nothing_by_itself() {
    let (mut fleet, id) = held();
    fleet.vote(id, "c", &[BallotCast { lapsed: true, ..vetoes(process("svc", 1), "wait") }]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    let waiting = fleet.record.waiting(fleet.update(id)).unwrap();
    let about = format!("{:?}", waiting.waiting_for);
    assert!(about.contains("vetoed and is gone since: wait"), "{about}");
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking, "those whose veto lapsed are asked again too");
}

#[test]
fn a_held_update_goes_back_when_nobody_decides_and_cannot_be_narrowed() {
    let (mut fleet, id) = held();
    let only = Decision::Only { nodes: BTreeSet::from([node("a")]) };
    let refused = fleet.decide(id, only, None).unwrap_err().to_string();
    assert!(refused.contains("--ask-again"), "{refused}");
    let expired = |waited| MasterCommand::DecideExpired { update: id, waited };
    assert_eq!(fleet.tell(expired(Span::from_secs(60))), Err(Rejection::Outdated));
    fleet.tell(expired(Span::from_secs(7 * 86_400))).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
}

#[test]
fn an_update_held_by_a_failure_has_nobody_to_ask_again() {
    let (mut fleet, mut request, plan) = fleet();
    request.options.on_failure = OnFailure::Hold;
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["b"]) }).unwrap();
    let report = NodeReport::Regressed { current: Generation::default(), why: Some("unhealthy".into()) };
    fleet.report(id, "b", report).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 0 });
    assert!(can(&fleet, id).iter().all(|command| !command.contains("--ask-again")));
    let refused = fleet.decide(id, Decision::AskAgain, None).unwrap_err().to_string();
    assert!(refused.contains("has vetoed it"), "{refused}");
}

#[test]
fn a_pause_comes_again_only_where_there_is_something_left_to_hold_back() {
    let (mut fleet, mut request, plan) = fleet();
    request.options.on_failure = OnFailure::Hold;
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    for name in ["b", "c"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.become_ready(id, "a");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["a"]) }).unwrap();
    fleet.order(UserCommand::Pause { update: id }, None).unwrap();
    let report = NodeReport::Regressed { current: Generation::default(), why: Some("unhealthy".into()) };
    fleet.report(id, "a", report).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 2 });
    fleet.decide(id, Decision::Force { why: "go on without it".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Verifying);
}

#[test]
fn a_settled_node_that_is_removed_while_the_rest_is_asked_again_takes_nothing_back() {
    let (mut fleet, id) = held();
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.order(UserCommand::RemoveNode { node: node("b") }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking);
    fleet.vote(id, "c", &[accepts(process("svc", 1))]);
    assert!(matches!(fleet.phase(id), Phase::Wave { .. }), "{:?}", fleet.phase(id));
}

#[test]
fn a_node_that_was_away_and_forced_past_stops_nothing_when_it_is_removed() {
    let (mut fleet, id) = begun();
    fleet.tell(MasterCommand::Away { update: id, node: node("c") }).unwrap();
    fleet.decide(id, Decision::Force { why: "it burnt down".into() }, None).unwrap();
    let phase = fleet.phase(id).clone();
    assert!(matches!(phase, Phase::Wave { .. }), "{phase:?}");
    fleet.order(UserCommand::RemoveNode { node: node("c") }, None).unwrap();
    assert_eq!(*fleet.phase(id), phase);
}

#[test]
fn a_regress_that_takes_the_node_of_a_veto_does_not_go_past_another_that_lapsed() {
    let (mut fleet, request, whole) = fleet();
    let app = fleet.record.packages().values().next().unwrap().manifest.clone();
    let id = fleet.submit(request, whole);
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    for name in ["b", "c"] {
        fleet.vote(id, name, &[vetoes(process("svc", 1), "wait")]);
    }
    fleet.vote(id, "c", &[BallotCast { lapsed: true, ..vetoes(process("svc", 1), "wait") }]);
    let back = UpdateRequest { kind: UpdateKind::Regress, ..install(&["b"], &[]) };
    let back = fleet.submit(back, plan(&app, &["b"]));
    assert_eq!(*fleet.phase(back), Phase::Asking);
    assert!(!fleet.update(id).nodes.contains_key(&node("b")));
    assert_eq!(*fleet.phase(id), Phase::Vetoed, "the user who was called decides");
    fleet.decide(id, Decision::Force { why: "it is gone".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Distributing);
}

#[test]
fn an_update_that_was_paused_before_it_was_vetoed_is_paused_again_when_that_is_decided() {
    let pause = |fleet: &mut Fleet, id| fleet.order(UserCommand::Pause { update: id }, None).map(drop).unwrap();
    let force = |fleet: &mut Fleet, id| fleet.decide(id, Decision::Force { why: "go on".into() }, None).map(drop).unwrap();
    let resume = |fleet: &mut Fleet, id| fleet.order(UserCommand::Resume { update: id }, None).map(drop).unwrap();
    // Before the first changeover.
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    pause(&mut fleet, id);
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    force(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Paused { wave: 0, by: "ada".into() });
    resume(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 0 });
    // After it.
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    pause(&mut fleet, id);
    fleet.vote(id, "c", &[vetoes(process("svc", 2), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    let mut other = Fleet::with(fleet.record.clone(), fleet.index);
    force(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Paused { wave: 1, by: "ada".into() });
    resume(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
    fleet.vote(id, "c", &[vetoes(process("svc", 3), "wait")]);
    force(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 }, "nobody paused it since it was resumed");
    // Whoever asks again finds it paused as well.
    other.decide(id, Decision::AskAgain, None).unwrap();
    other.vote(id, "c", &[accepts(process("svc", 2))]);
    assert_eq!(*other.phase(id), Phase::Paused { wave: 1, by: "ada".into() });
}
