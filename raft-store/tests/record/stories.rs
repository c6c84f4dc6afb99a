//! The life of an update, entry by entry.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tribune_raft_store::command::{Body, Evidence, MasterCommand, Rejection, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::WaitingFor;

use crate::fleet::{Fleet, accepts, install, manifest, node, nodes, process, vetoes};

/// A fleet of three nodes with package `app` 1.0.0 in the store, and the plan that installs it one node after the other.
pub fn fleet() -> (Fleet, UpdateRequest, Plan) {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let id = fleet.publish(&app);
    (fleet, install(&["a", "b", "c"], &[id]), plan(&app, &["b", "c", "a"]))
}

pub fn plan(manifest: &Manifest, names: &[&str]) -> Plan {
    let module = PlannedModule { package: manifest.id(), index: 0, signature: manifest.modules[0].signature, size: 1000 };
    let change = PackageChange { name: manifest.name.clone(), from: None, to: Some(manifest.id()) };
    let one = NodePlan { changes: vec![change], modules: BTreeMap::from([("app/main".into(), module)]), local: false };
    Plan {
        revision: 1,
        nodes: names.iter().map(|name| (node(name), one.clone())).collect(),
        waves: names.iter().map(|name| vec![node(name)]).collect(),
        ..Plan::default()
    }
}

pub fn all_accept(fleet: &mut Fleet, id: UpdateId) {
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[accepts(process("svc", 1))]);
    }
}

pub fn all_staged(fleet: &mut Fleet, id: UpdateId) {
    for name in ["a", "b", "c"] {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
}

pub fn ended(outcome: Outcome) -> Phase {
    Phase::Ended { outcome }
}

#[test]
fn copies_that_were_counted_under_another_membership_publish_nothing_until_they_are_counted_anew() {
    let (mut fleet, ..) = fleet();
    let other = manifest("other", "1.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let (id, evidence) = (other.id(), fleet.copies(&other));
    let outdated = match evidence.clone() {
        Evidence::Stored { manifests, receipts, membership } => {
            Evidence::Stored { manifests, receipts, membership: membership + 1 }
        }
        plan @ Evidence::Plan(_) => plan,
    };
    let mut entry = fleet.signed(UserCommand::Publish { packages: BTreeSet::from([id]) }, Some(outdated));
    assert_eq!(fleet.apply(&entry), Err(Rejection::MembershipChanged));
    assert!(!fleet.record.packages().contains(&id));
    let Body::User { evidence: sent, .. } = &mut entry.body else { panic!("a user's order") };
    *sent = Some(Box::new(evidence));
    fleet.apply(&entry).unwrap();
    assert!(fleet.record.packages().contains(&id));
}

#[test]
fn an_update_is_asked_voted_staged_changed_over_in_waves_and_verified() {
    let (mut fleet, request, plan) = fleet();
    let app = request.targets.nodes[&node("a")].first().copied().unwrap();
    let id = fleet.submit(request, plan);
    assert_eq!(*fleet.phase(id), Phase::Asking);
    fleet.report(id, "a", NodeReport::Asked { processes: vec![process("svc", 1)] }).unwrap();
    assert_eq!(fleet.step(id, "a"), Step::Asked);
    let waiting = fleet.record.waiting(fleet.update(id)).unwrap();
    let asked = vec![(node("a"), process("svc", 1))];
    assert_eq!(waiting.waiting_for, WaitingFor::Answers { nodes: ["a", "b", "c"].map(node).to_vec(), asked });
    all_accept(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Distributing);
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Distributing, "nobody changes over before every node has staged");
    fleet.report(id, "b", NodeReport::Staged).unwrap();
    fleet.report(id, "c", NodeReport::Staged).unwrap();
    for (wave, name) in (0..).zip(["b", "c", "a"]) {
        assert_eq!(*fleet.phase(id), Phase::Wave { wave });
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    assert_eq!(*fleet.phase(id), Phase::Verifying);
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Completed));
    for name in ["a", "b", "c"] {
        assert_eq!(fleet.node(name).should.values().collect::<Vec<_>>(), [&app]);
        assert_eq!(fleet.node(name).current.number, 1);
    }
}

#[test]
fn a_node_out_of_its_wave_or_not_ready_gets_no_go() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    let go = |name| MasterCommand::Go { update: id, nodes: nodes(&[name]) };
    assert_eq!(fleet.tell(go("b")), Err(Rejection::Outdated), "it is not ready");
    fleet.become_ready(id, "a");
    assert_eq!(fleet.tell(go("a")), Err(Rejection::Outdated), "its wave is the last");
    fleet.become_ready(id, "b");
    fleet.report(id, "b", NodeReport::Released).unwrap();
    assert_eq!(fleet.tell(go("b")), Err(Rejection::Outdated), "it let go again");
}

#[test]
fn why_a_node_is_left_out_is_written_down_as_people_read_it() {
    let known = [LeftOut::Away, LeftOut::Apart, LeftOut::ByDecision, LeftOut::ByRegress, LeftOut::CalledOff];
    for why in known.into_iter().chain([LeftOut::Unchanged("it has app 1.0.0 already".into())]) {
        let text = serde_json::to_value(&why).unwrap();
        assert_eq!(text, json!(why.to_string()));
        assert_eq!(serde_json::from_value::<LeftOut>(text).unwrap(), why);
    }
}

#[test]
fn nodes_left_out_because_nothing_changes_there_do_not_make_it_partly() {
    let unchanged = LeftOut::Unchanged("it has app 1.0.0 already".into());
    for (why, outcome) in [(unchanged, Outcome::Completed), (LeftOut::Away, Outcome::CompletedInPart)] {
        let (mut fleet, request, mut plan) = fleet();
        plan.nodes.remove(&node("c"));
        plan.waves = vec![vec![node("a"), node("b")]];
        plan.left_out.insert(node("c"), why.clone());
        let id = fleet.submit(request, plan);
        for name in ["a", "b"] {
            fleet.vote(id, name, &[]);
        }
        for name in ["a", "b"] {
            fleet.report(id, name, NodeReport::Staged).unwrap();
        }
        for name in ["a", "b"] {
            fleet.become_ready(id, name);
            fleet.change_over(id, name);
        }
        fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
        assert_eq!(*fleet.phase(id), ended(outcome), "{why}");
    }
}

#[test]
fn one_veto_stops_all_until_a_user_forces_it() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 2), "a migration runs")]);
    assert_eq!(*fleet.phase(id), Phase::Asking, "all are heard first");
    fleet.vote(id, "c", &[]);
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    let outdated = UserCommand::Decide { update: id, ballot_revision: 0, decision: Decision::Force { why: "now".into() } };
    assert!(matches!(fleet.order(outdated, None), Err(Rejection::BallotsChanged { .. })));
    fleet.decide(id, Decision::Force { why: "now".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Distributing);
    assert_eq!(fleet.update(id).decisions[0].overruled, [(node("b"), process("svc", 2))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 2), "still")]);
    assert_eq!(*fleet.phase(id), Phase::Distributing, "who was overruled cannot veto again");
    fleet.vote(id, "b", &[vetoes(process("svc", 3), "I am new")]);
    assert_eq!(*fleet.phase(id), Phase::Vetoed, "another process can");
}

#[test]
fn a_node_cannot_say_that_a_veto_is_overruled() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[BallotCast { overruled: true, ..vetoes(process("svc", 1), "no") }]);
    }
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
}

#[test]
fn a_veto_that_lapsed_moves_nothing_by_itself() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[vetoes(process("svc", 1), "no")]);
    }
    for name in ["a", "b", "c"] {
        fleet.vote(id, name, &[BallotCast { lapsed: true, ..vetoes(process("svc", 1), "no") }]);
        assert_eq!(*fleet.phase(id), Phase::Vetoed);
    }
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking);
    all_accept(&mut fleet, id);
    assert_eq!(*fleet.phase(id), Phase::Distributing);
}

#[test]
fn asking_again_asks_those_that_vetoed_and_no_others() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 2), "not now")]);
    fleet.vote(id, "c", &[]);
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Asking);
    assert_eq!((fleet.step(id, "a"), fleet.step(id, "b")), (Step::Voted, Step::Planned));
    let late = MasterCommand::Report {
        update: id,
        node: node("b"),
        revision: 1,
        round: 1,
        report: NodeReport::Voted { ballots: vec![vetoes(process("svc", 2), "not now")] },
    };
    assert_eq!(fleet.tell(late), Err(Rejection::Outdated), "an answer to the first round");
    fleet.vote(id, "b", &[accepts(process("svc", 2))]);
    assert_eq!(*fleet.phase(id), Phase::Distributing);
}

#[test]
fn who_was_overruled_stays_so_when_others_are_asked_again() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    fleet.vote(id, "a", &[vetoes(process("one", 1), "no")]);
    fleet.vote(id, "b", &[]);
    fleet.vote(id, "c", &[]);
    fleet.decide(id, Decision::Force { why: "must be".into() }, None).unwrap();
    fleet.vote(id, "a", &[vetoes(process("one", 1), "no"), vetoes(process("two", 2), "late")]);
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    fleet.decide(id, Decision::AskAgain, None).unwrap();
    fleet.vote(id, "a", &[vetoes(process("one", 1), "no"), accepts(process("two", 2))]);
    assert_eq!(*fleet.phase(id), Phase::Distributing);
}

#[test]
fn a_decision_for_some_nodes_needs_a_plan_for_just_these() {
    let (mut fleet, request, whole) = fleet();
    let app = fleet.record.packages().values().next().unwrap().manifest.clone();
    let id = fleet.submit(request, whole.clone());
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 2), "never")]);
    fleet.vote(id, "c", &[]);
    let only = Decision::Only { nodes: nodes(&["a", "c"]) };
    assert!(fleet.decide(id, only.clone(), None).is_err());
    assert!(fleet.decide(id, only.clone(), Some(whole)).is_err(), "the plan is for all");
    let mut some = plan(&app, &["c", "a"]);
    some.left_out.insert(node("b"), LeftOut::ByDecision);
    some.read.insert("node/a".into(), 0);
    assert!(matches!(fleet.decide(id, only.clone(), Some(some.clone())), Err(Rejection::PlanOutdated { .. })));
    some.read.clear();
    fleet.decide(id, only, Some(some)).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Distributing);
    assert_eq!(fleet.update(id).plan.as_ref().unwrap().revision, 2);
    for name in ["a", "c"] {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
    for name in ["c", "a"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::CompletedInPart));
}

#[test]
fn a_vetoed_update_can_be_aborted_and_aborts_when_nobody_decides() {
    for by_user in [true, false] {
        let (mut fleet, request, plan) = fleet();
        let id = fleet.submit(request, plan);
        for name in ["a", "b", "c"] {
            fleet.vote(id, name, &[vetoes(process("svc", 1), "no")]);
        }
        if by_user {
            fleet.decide(id, Decision::Abort, None).unwrap();
        } else {
            let expired = |waited| MasterCommand::DecideExpired { update: id, waited };
            assert_eq!(fleet.tell(expired(Span::from_secs(86_400))), Err(Rejection::Outdated));
            fleet.tell(expired(Span::from_secs(7 * 86_400))).unwrap();
        }
        assert_eq!(*fleet.phase(id), ended(Outcome::Aborted));
    }
}

#[test]
fn a_late_veto_before_the_first_changeover_makes_it_vetoed_and_nodes_let_go() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    assert_eq!(fleet.step(id, "b"), Step::Staged);
    fleet.decide(id, Decision::Force { why: "go on".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 0 }, "all is staged already");
}

#[test]
fn a_late_veto_after_the_first_changeover_holds_it() {
    for force in [true, false] {
        let (mut fleet, request, plan) = fleet();
        let id = fleet.submit(request, plan);
        all_accept(&mut fleet, id);
        all_staged(&mut fleet, id);
        fleet.become_ready(id, "b");
        fleet.change_over(id, "b");
        fleet.vote(id, "c", &[vetoes(process("svc", 1), "wait")]);
        assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
        if force {
            fleet.decide(id, Decision::Force { why: "go on".into() }, None).unwrap();
            assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
        } else {
            fleet.decide(id, Decision::Abort, None).unwrap();
            assert_eq!(*fleet.phase(id), Phase::Regressing);
            fleet.report(id, "b", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
            assert_eq!(*fleet.phase(id), ended(Outcome::Regressed));
        }
    }
}

/// An update of which `b` has changed over and `c` has its go.
fn in_the_middle() -> (Fleet, UpdateId) {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.become_ready(id, "c");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["c"]) }).unwrap();
    (fleet, id)
}

#[test]
fn a_paused_update_finishes_what_has_begun_and_goes_on_when_it_is_resumed() {
    let (mut fleet, id) = in_the_middle();
    fleet.order(UserCommand::Pause { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Paused { wave: 1, by: "ada".into() });
    let waiting = fleet.record.waiting(fleet.update(id)).unwrap();
    assert_eq!(waiting.waiting_for, WaitingFor::Resume { left: vec![node("a")], finishing: vec![(node("c"), Step::Go)] });
    assert_eq!(waiting.can, ["tribune update resume u1", "tribune update cancel u1"]);
    let again = fleet.order(UserCommand::Pause { update: id }, None);
    assert!(again.unwrap_err().to_string().contains("paused already"));
    assert_eq!(fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["a"]) }), Err(Rejection::Outdated));

    fleet.settle(id, "c");
    assert_eq!(*fleet.phase(id), Phase::Paused { wave: 1, by: "ada".into() }, "the next wave does not begin");
    fleet.order(UserCommand::Resume { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 2 });
    let again = fleet.order(UserCommand::Resume { update: id }, None);
    assert!(matches!(again, Err(Rejection::Phase { .. })), "{again:?}");
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Completed));
    assert_eq!(fleet.update(id).reason, None);
}

#[test]
fn a_paused_update_is_cancelled_fails_and_is_vetoed_like_one_that_goes_on_and_goes_back_when_nobody_resumes_it() {
    let paused = || {
        let (mut fleet, id) = in_the_middle();
        fleet.order(UserCommand::Pause { update: id }, None).unwrap();
        (fleet, id)
    };
    let (mut fleet, id) = paused();
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);

    let (mut fleet, id) = paused();
    let report = NodeReport::Regressed { current: Generation::default(), why: Some("unhealthy".into()) };
    fleet.report(id, "c", report).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);

    let (mut fleet, id) = paused();
    fleet.vote(id, "a", &[vetoes(process("svc", 1), "wait")]);
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });

    let (mut fleet, id) = paused();
    let expired = |waited| MasterCommand::DecideExpired { update: id, waited };
    assert_eq!(fleet.tell(expired(Span::from_secs(60))), Err(Rejection::Outdated));
    fleet.tell(expired(Span::from_secs(7 * 86_400))).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    assert_eq!(fleet.update(id).reason.as_deref(), Some("nobody decided within 7d"));
}

#[test]
fn an_update_is_paused_only_while_nodes_change_over() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    let refused = |fleet: &mut Fleet| fleet.order(UserCommand::Pause { update: id }, None).unwrap_err().to_string();
    assert!(refused(&mut fleet).contains("no node changes over yet"));
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    // Nothing has changed yet: undecided, nothing has to go back.
    fleet.order(UserCommand::Pause { update: id }, None).unwrap();
    fleet.tell(MasterCommand::DecideExpired { update: id, waited: Span::from_secs(7 * 86_400) }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Aborted));
    assert!(refused(&mut fleet).contains("nothing to pause"));
}

#[test]
fn a_failure_takes_every_changed_node_back_and_leaves_tombstones() {
    let (mut fleet, request, plan) = fleet();
    let app = request.targets.nodes[&node("a")].first().copied().unwrap();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.become_ready(id, "c");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["c"]) }).unwrap();
    let empty = Generation::default();
    fleet.report(id, "c", NodeReport::Regressed { current: empty.clone(), why: Some("unhealthy".into()) }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    fleet.report(id, "b", NodeReport::Regressed { current: empty, why: None }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Regressed));
    let buried: Vec<_> = fleet.record.tombstones().iter().map(|(key, _)| (key.package, key.node.clone())).collect();
    assert_eq!(buried, [(app, node("b")), (app, node("c"))]);
    assert!(fleet.node("b").should.is_empty());
}

#[test]
fn a_plan_from_before_a_node_was_taken_back_is_made_again_since_it_knows_no_tombstone() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request.clone(), plan.clone());
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.become_ready(id, "c");
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["c"]) }).unwrap();
    let empty = Generation::default();
    fleet.report(id, "c", NodeReport::Regressed { current: empty.clone(), why: Some("unhealthy".into()) }).unwrap();
    let planned = Plan { read: BTreeMap::from([("node/c".to_owned(), fleet.node("c").version)]), ..plan };
    fleet.report(id, "b", NodeReport::Regressed { current: empty, why: None }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Regressed));
    let late = fleet.order(UserCommand::Submit { request }, Some(Evidence::Plan(planned)));
    assert_eq!(late, Err(Rejection::PlanOutdated { key: "node/c".into() }));
}

#[test]
fn a_settled_node_that_goes_away_while_it_should_go_back_ends_it_as_regress_failed() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing);
    assert_eq!(fleet.tell(MasterCommand::Away { update: id, node: node("a") }), Err(Rejection::Outdated), "it did not change");
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::RegressFailed));
}

#[test]
fn with_hold_a_second_failure_waits_for_the_user_as_the_first_does() {
    let (mut fleet, mut request, mut plan) = fleet();
    request.options.on_failure = OnFailure::Hold;
    plan.waves = vec![vec![node("a"), node("b"), node("c")]];
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    for name in ["a", "b", "c"] {
        fleet.become_ready(id, name);
    }
    fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["a", "b", "c"]) }).unwrap();
    for name in ["a", "b"] {
        let report = NodeReport::Regressed { current: Generation::default(), why: Some("unhealthy".into()) };
        fleet.report(id, name, report).unwrap();
        assert_eq!(*fleet.phase(id), Phase::Held { wave: 0 });
    }
}

#[test]
fn a_forced_regress_overrules_every_veto_from_the_start() {
    for (kind, phase) in [(UpdateKind::Regress, Phase::Distributing), (UpdateKind::Install, Phase::Vetoed)] {
        let (mut fleet, mut request, plan) = fleet();
        request.kind = kind;
        request.options.force = Some("it burns".into());
        let id = fleet.submit(request, plan);
        for name in ["a", "b", "c"] {
            fleet.vote(id, name, &[vetoes(process("svc", 1), "no"), accepts(process("other", 2))]);
        }
        assert_eq!(*fleet.phase(id), phase);
        if kind == UpdateKind::Regress {
            let ballots = &fleet.update(id).nodes[&node("a")].ballots;
            assert_eq!(ballots.iter().map(|b| b.overruled).collect::<Vec<_>>(), [false, true]);
        }
    }
}

#[test]
fn an_update_waits_behind_another_that_has_its_nodes_and_gets_a_new_plan() {
    let (mut fleet, request, plan) = fleet();
    let first = fleet.submit(request.clone(), plan.clone());
    let second = fleet.submit(request, plan.clone());
    assert_eq!(*fleet.phase(second), Phase::Queued { behind: vec![first] });
    let waiting = fleet.record.waiting(fleet.update(second)).unwrap();
    assert_eq!(waiting.waiting_for, WaitingFor::Updates { updates: vec![first] });
    assert_eq!(waiting.can, ["tribune update show u1", "tribune update cancel u2"]);
    fleet.order(UserCommand::Cancel { update: first }, None).unwrap();
    assert!(fleet.record.waits_for(fleet.update(second)).is_empty());
    fleet.tell(MasterCommand::SetPlan { update: second, plan: Plan { revision: 2, ..plan } }).unwrap();
    assert_eq!(*fleet.phase(second), Phase::Asking);
}
