//! What nodes are told, and what the master proposes.

use std::collections::BTreeSet;

use serde_json::json;
use tribune_master::liveness::GRACE;
use tribune_master::{Liveness, MasterClock, command_would_move, directives, due, missing, next_wake, store_blobs, verdict};
use tribune_messages::node::{Directive, READY_LEASE, Want};
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, accepts, install, node, nodes, process, vetoes};
use crate::setup::{all_there, planned, publish, regress};

/// An update of three nodes, that is being asked.
fn begun(strategy: RolloutStrategy) -> (Fleet, UpdateId) {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let app = publish(&mut fleet, "app", "1.0.0", &[json!({ "name": "main", "run": ["main"] })]);
    let mut request = install(&["a", "b", "c"], &[app]);
    request.options.strategy = strategy;
    let plan = planned(&fleet, &request);
    let id = fleet.submit(request, plan);
    (fleet, id)
}

fn told(fleet: &Fleet, name: &str) -> Vec<Directive> {
    directives(&fleet.record, &node(name), &BTreeSet::new())
}

fn wants(fleet: &Fleet) -> Vec<Want> {
    ["a", "b", "c"].iter().flat_map(|name| told(fleet, name)).map(|directive| directive.want).collect()
}

fn staged(fleet: &mut Fleet, id: UpdateId) {
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[accepts(process("svc", 1))]);
    }
    for name in ["a", "b", "c"] {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
}

fn ready(fleet: &Fleet, id: UpdateId, names: &[&str]) -> Liveness {
    let mut liveness = all_there(fleet);
    for name in names {
        liveness.heard(&node(name), MasterClock(0), &[id].into());
    }
    liveness
}

#[test]
fn directives_follow_an_update_through_its_life() {
    let (mut fleet, id) = begun(RolloutStrategy::Rolling);
    assert_eq!(wants(&fleet), [Want::Voted, Want::Voted, Want::Voted]);
    let first = told(&fleet, "b").remove(0);
    assert_eq!((first.update, first.revision, first.round, first.manifests.len()), (id, 1, 1, 1));
    assert_eq!(first.plan.modules.len(), 1);
    fleet.vote(id, "b", &[vetoes(process("svc", 1), "no")]);
    assert_eq!(wants(&fleet), [Want::Voted, Want::Hold, Want::Voted]);
    fleet.vote(id, "a", &[]);
    fleet.vote(id, "c", &[]);
    assert_eq!(wants(&fleet), [Want::Hold, Want::Hold, Want::Hold], "it is vetoed");
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Voted, Want::Hold]);
    assert_eq!(told(&fleet, "b")[0].round, 2);
    fleet.vote(id, "b", &[accepts(process("svc", 1))]);
    assert_eq!(wants(&fleet), [Want::Staged, Want::Staged, Want::Staged]);
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Staged, Want::Staged]);
    fleet.report(id, "b", NodeReport::Staged).unwrap();
    fleet.report(id, "c", NodeReport::Staged).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Ready, Want::Hold], "the master changes over last");
    fleet.become_ready(id, "b");
    assert_eq!(wants(&fleet), [Want::Hold, Want::Ready, Want::Hold]);
    fleet.change_over(id, "b");
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Ready]);
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    let why = "ada cancelled it".to_owned();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Regressed { why: why.clone() }, Want::Hold]);
    fleet.report(id, "b", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
    assert_eq!(wants(&fleet), [], "it is over");
    let end = directives(&fleet.record, &node("b"), &[id].into());
    assert_eq!(end[0].want, Want::Ended { outcome: Outcome::Regressed, reason: Some(why) });
}

#[test]
fn a_held_update_keeps_what_has_begun_and_lets_go_of_the_rest() {
    let (mut fleet, id) = begun(RolloutStrategy::Rolling);
    staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.become_ready(id, "c");
    fleet.vote(id, "a", &[vetoes(process("svc", 1), "late")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Hold]);
    assert_eq!(fleet.step(id, "c"), Step::Staged, "it lets go");
    // While the rest is asked again, what has begun stays.
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking);
    assert_eq!(wants(&fleet), [Want::Voted, Want::Settled, Want::Hold]);
    fleet.vote(id, "a", &[vetoes(process("svc", 1), "still")]);
    fleet.decide(id, Decision::Force { why: "go on".into() }, None).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Ready]);
}

#[test]
fn a_paused_update_lets_go_of_who_has_not_begun_and_is_given_up_when_nobody_resumes_it() {
    let (mut fleet, id) = begun(RolloutStrategy::Rolling);
    staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["b"]) }).unwrap();
    fleet.order(UserCommand::Pause { update: id }, None).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Hold]);
    fleet.settle(id, "b");
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Hold], "the next wave does not begin");

    let mut liveness = all_there(&fleet);
    liveness.observe(&fleet.record, MasterClock(0));
    let week = MasterClock(7 * 86_400_000);
    assert_eq!(next_wake(&fleet.record, &liveness, MasterClock(0)), Some(week));
    let check = due(&fleet.record, &liveness, MasterClock(week.0 - 1), None).remove(0);
    assert!(matches!(check, MasterCommand::Checked { .. }), "old and new will live side by side for a while: {check:?}");
    fleet.tell(check).unwrap();
    assert_eq!(due(&fleet.record, &liveness, MasterClock(week.0 - 1), None), []);
    let expired = MasterCommand::DecideExpired { update: id, waited: Span::from_secs(7 * 86_400) };
    assert_eq!(due(&fleet.record, &liveness, week, None), [expired]);

    fleet.order(UserCommand::Resume { update: id }, None).unwrap();
    assert_eq!(wants(&fleet), [Want::Hold, Want::Settled, Want::Ready]);
}

#[test]
fn a_node_that_was_left_out_or_knows_an_update_nobody_knows_hears_that_it_is_over() {
    let (mut fleet, id) = begun(RolloutStrategy::Rolling);
    fleet.vote(id, "a", &[]);
    fleet.vote(id, "b", &[vetoes(process("svc", 1), "no")]);
    fleet.vote(id, "c", &[]);
    let only = nodes(&["a", "c"]);
    let plan = tribune_master::plan_again(&fleet.record, fleet.update(id), Some(&only), &all_there(&fleet), Some(&node("a")));
    fleet.decide(id, Decision::Only { nodes: only }, Some(plan)).unwrap();
    let ends = directives(&fleet.record, &node("b"), &[id, UpdateId(99)].into());
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().all(|end| matches!(end.want, Want::Ended { outcome: Outcome::Aborted, .. })), "{ends:?}");
    assert_eq!(wants(&fleet), [Want::Staged, Want::Staged]);
}

#[test]
fn nodes_hear_who_went_past_which_veto_and_why() {
    let (mut fleet, id) = begun(RolloutStrategy::Rolling);
    fleet.vote(id, "a", &[]);
    fleet.vote(id, "b", &[vetoes(process("svc", 7), "no")]);
    fleet.vote(id, "c", &[]);
    fleet.decide(id, Decision::Force { why: "security".into() }, None).unwrap();
    let overruled = told(&fleet, "b").remove(0).overruled;
    assert_eq!(overruled.len(), 1);
    assert_eq!((overruled[0].process.pid, overruled[0].by.as_str(), overruled[0].why.as_str()), (7, "ada", "security"));
    assert_eq!(told(&fleet, "a")[0].overruled, []);
}

#[test]
fn a_regress_that_is_forced_from_the_start_says_so_to_the_nodes() {
    let mut fleet = Fleet::new(&["a"]);
    let app = publish(&mut fleet, "app", "1.0.0", &[json!({ "name": "main" })]);
    crate::setup::has(&mut fleet, "a", &[app]);
    let mut request = regress("a", &[]);
    request.options.force = Some("it burns".into());
    let id = fleet.submit(request.clone(), planned(&fleet, &request));
    fleet.vote(id, "a", &[vetoes(process("svc", 7), "no")]);
    let directive = told(&fleet, "a").remove(0);
    assert_eq!((directive.kind, directive.plan.local, directive.want), (UpdateKind::Regress, true, Want::Staged));
    assert_eq!((directive.overruled[0].by.as_str(), directive.overruled[0].why.as_str()), ("ada", "it burns"));
}

#[test]
fn go_is_given_to_all_of_a_wave_at_once_and_only_while_all_leases_hold() {
    let (mut fleet, id) = begun(RolloutStrategy::Together);
    staged(&mut fleet, id);
    for name in ["a", "b", "c"] {
        fleet.become_ready(id, name);
    }
    let now = MasterClock(1000);
    let go = |liveness: &Liveness, now| due(&fleet.record, liveness, now, Some(&node("a")));
    assert_eq!(go(&ready(&fleet, id, &["a", "b"]), now), [], "c has not said that it is ready");
    let mut liveness = ready(&fleet, id, &["a", "b", "c"]);
    assert_eq!(go(&liveness, now), [MasterCommand::Go { update: id, nodes: nodes(&["a", "b", "c"]) }]);
    assert_eq!(go(&liveness, MasterClock(0).after(READY_LEASE)), [], "the leases ran out");
    liveness.gone(&node("c"), now);
    assert_eq!(go(&liveness, now), [], "c has no session");
}

#[test]
fn a_node_that_lets_go_of_an_update_is_not_ready_for_it() {
    let (fleet, id) = begun(RolloutStrategy::Together);
    let mut liveness = ready(&fleet, id, &["a"]);
    assert!(liveness.is_ready(id, &node("a"), MasterClock(1)));
    liveness.heard(&node("a"), MasterClock(1), &BTreeSet::new());
    assert!(!liveness.is_ready(id, &node("a"), MasterClock(2)));
}

#[test]
fn a_queued_update_gets_its_plan_when_it_waits_for_no_other() {
    let (mut fleet, first) = begun(RolloutStrategy::Together);
    let request = fleet.update(first).request.clone();
    let second = fleet.submit(request.clone(), planned(&fleet, &request));
    let late = MasterClock(0).after(GRACE);
    assert_eq!(due(&fleet.record, &all_there(&fleet), late, None), []);
    fleet.order(UserCommand::Cancel { update: first }, None).unwrap();
    let proposed = due(&fleet.record, &all_there(&fleet), late, None);
    let [MasterCommand::SetPlan { update, plan }] = proposed.as_slice() else { panic!("{proposed:?}") };
    assert_eq!((*update, plan.revision, plan.nodes.len()), (second, 2, 3));
    let nobody = Liveness::new(MasterClock(0));
    assert_eq!(due(&fleet.record, &nobody, MasterClock(1), None), [], "a new master waits for its nodes");
    assert_eq!(next_wake(&fleet.record, &nobody, MasterClock(1)), Some(late));
    assert_eq!(due(&fleet.record, &nobody, late, None).len(), 1, "then it is rejected");
}

#[test]
fn a_node_without_a_session_is_away_after_the_time_that_is_set() {
    let (fleet, id) = begun(RolloutStrategy::Together);
    let mut liveness = all_there(&fleet);
    liveness.gone(&node("c"), MasterClock(5_000));
    let told = missing(fleet.update(id), &liveness, MasterClock(8_000));
    assert_eq!(told, [(node("c"), Span::from_secs(3))].into(), "who looks at the update is told");
    let limit = MasterClock(605_000);
    assert_eq!(due(&fleet.record, &liveness, MasterClock(604_999), None), []);
    assert_eq!(next_wake(&fleet.record, &liveness, MasterClock(6_000)), Some(limit));
    assert_eq!(due(&fleet.record, &liveness, limit, None), [MasterCommand::Away { update: id, node: node("c") }]);
    liveness.heard(&node("c"), MasterClock(605_000), &BTreeSet::new());
    assert_eq!(due(&fleet.record, &liveness, limit, None), []);
}

#[test]
fn a_decision_is_waited_for_by_the_masters_own_clock_begun_anew_by_each() {
    let (mut fleet, id) = begun(RolloutStrategy::Together);
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[vetoes(process("svc", 1), "no")]);
    }
    let mut liveness = all_there(&fleet);
    liveness.observe(&fleet.record, MasterClock(1_000));
    liveness.observe(&fleet.record, MasterClock(9_000));
    let week = Span::from_secs(7 * 86_400);
    let end = MasterClock(1_000).after(week);
    assert_eq!(next_wake(&fleet.record, &liveness, MasterClock(9_000)), Some(end));
    assert_eq!(due(&fleet.record, &liveness, MasterClock(end.0 - 1), None), []);
    assert_eq!(due(&fleet.record, &liveness, end, None), [MasterCommand::DecideExpired { update: id, waited: week }]);
    let mut other = all_there(&fleet);
    other.observe(&fleet.record, MasterClock(end.0 - 1));
    assert_eq!(due(&fleet.record, &other, end, None), [], "a new master begins anew");
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    liveness.observe(&fleet.record, end);
    assert_eq!(due(&fleet.record, &liveness, end, None), []);
}

#[test]
fn what_is_installed_is_checked_at_the_end() {
    let (mut fleet, id) = begun(RolloutStrategy::Together);
    staged(&mut fleet, id);
    for name in ["a", "b", "c"] {
        fleet.become_ready(id, name);
    }
    for name in ["a", "b"] {
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["c"]) }).unwrap();
    let current = Generation { number: 1, ..Generation::default() };
    fleet.report(id, "c", NodeReport::Settled { current }).unwrap();
    let proposed = due(&fleet.record, &all_there(&fleet), MasterClock(0), None);
    let [MasterCommand::Verified { discrepancies, .. }] = proposed.as_slice() else { panic!("{proposed:?}") };
    assert_eq!(discrepancies.len(), 1);
    assert_eq!((&discrepancies[0].node, discrepancies[0].module.as_str()), (&node("c"), "app/main"), "it has not what it said");
    assert_eq!(verdict(&fleet.record, fleet.update(id)), *discrepancies);
}

#[test]
fn the_verdict_leaves_out_what_the_update_has_nothing_to_do_with() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let lonely = publish(&mut fleet, "lonely", "1.0.0", &[json!({ "name": "d", "consumes": ["missing.api@^1"] })]);
    let mut request = install(&["b"], &[lonely]);
    request.options.accept_discrepancies.insert("missing.api".parse().unwrap());
    let run = |fleet: &mut Fleet, request: UpdateRequest, name: &str| {
        let id = fleet.submit(request.clone(), planned(fleet, &request));
        fleet.vote(id, name, &[]);
        fleet.report(id, name, NodeReport::Staged).unwrap();
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
        verdict(&fleet.record, fleet.update(id))
    };
    assert_eq!(run(&mut fleet, request, "b").len(), 1);
    let app = publish(&mut fleet, "app", "1.0.0", &[json!({ "name": "main" })]);
    assert_eq!(run(&mut fleet, install(&["a"], &[app]), "a"), []);
}

#[test]
fn a_report_that_says_nothing_new_need_not_be_proposed() {
    let (mut fleet, id) = begun(RolloutStrategy::Together);
    let report = |report| MasterCommand::Report { update: id, node: node("a"), revision: 1, round: 1, report };
    let voted = report(NodeReport::Voted { ballots: vec![accepts(process("svc", 1))] });
    assert!(command_would_move(&fleet.record, &voted));
    fleet.tell(voted.clone()).unwrap();
    assert!(!command_would_move(&fleet.record, &voted));
    assert!(!command_would_move(&fleet.record, &report(NodeReport::Started)));
}

#[test]
fn the_store_holds_every_module_of_every_package() {
    let (fleet, _) = begun(RolloutStrategy::Together);
    let package = fleet.record.packages().values().next().unwrap();
    assert_eq!(store_blobs(&fleet.record).into_iter().collect::<Vec<_>>(), [(package.manifest.modules[0].signature, 1000)]);
}
