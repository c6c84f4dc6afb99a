//! Nodes that are removed or replaced, and what that means for what is open.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tribune_raft_store::command::{Accepted, JoinAs, MasterCommand, Rejection, Response, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, accepts, install, manifest, new_node_with, node, nodes, process, vetoes};
use crate::stories::{all_accept, all_staged, ended, fleet, plan};

fn remove(fleet: &mut Fleet, name: &str) -> Response {
    fleet.order(UserCommand::RemoveNode { node: node(name) }, None)
}

fn come(fleet: &mut Fleet, name: &str, identity: &str, place: JoinAs, token_for: Option<&str>) -> Response {
    let token = Signature::of(format!("{name} {identity} {}", fleet.index).as_bytes());
    let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: token_for.map(node) };
    fleet.order(order, None).unwrap();
    fleet.tell(MasterCommand::Join { token, node: new_node_with(name, identity), place })
}

#[test]
fn a_removed_node_never_comes_back_with_its_identity_and_its_name_is_free() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let unused = Signature::of(b"unused");
    let for_b = UserCommand::CreateToken { hash: unused, valid: Span::from_secs(600), node: Some(node("b")) };
    fleet.order(for_b, None).unwrap();
    assert_eq!(remove(&mut fleet, "b"), Ok(Accepted::Done));
    assert!(!fleet.record.nodes().contains(&node("b")));
    assert_eq!(fleet.record.removed().len(), 1);
    let with_old_token = MasterCommand::Join { token: unused, node: new_node_with("b", "new"), place: JoinAs::New };
    assert_eq!(fleet.tell(with_old_token), Err(Rejection::UnknownToken), "a token that was made for it is good no more");
    assert_eq!(come(&mut fleet, "d", "b", JoinAs::New, None), Err(Rejection::PeerRemoved { node: node("b") }));
    assert!(come(&mut fleet, "b", "another", JoinAs::New, None).is_ok());
    assert!(matches!(remove(&mut fleet, "z"), Err(Rejection::UnknownNode { .. })));
}

#[test]
fn a_voter_leaves_the_record_only_when_raft_has_it_no_more() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.tell(MasterCommand::MakeStandby { node: node("b") }).unwrap();
    fleet.tell(MasterCommand::MakeVoter { node: node("b") }).unwrap();
    assert_eq!(remove(&mut fleet, "b"), Ok(Accepted::Leaving { node: node("b") }));
    assert_eq!(remove(&mut fleet, "b"), Ok(Accepted::Leaving { node: node("b") }), "said again");
    assert_eq!(fleet.node("b").may_vote(), VoterPreference::Never);
    assert_eq!(remove(&mut fleet, "a"), Err(Rejection::LastVoter { node: node("a") }));
    fleet.tell(MasterCommand::MakeMember { node: node("b") }).unwrap();
    assert!(!fleet.record.nodes().contains(&node("b")));
}

#[test]
fn a_node_on_a_new_disk_takes_the_place_of_the_one_before_and_has_nothing_yet() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    for name in ["b", "c", "a"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    let label = Desired { value: "edge".into(), required: false };
    let set = BTreeMap::from([("role".parse().unwrap(), label)]);
    fleet.order(UserCommand::LabelNode { node: node("b"), set, unset: BTreeSet::new() }, None).unwrap();
    let class = UserCommand::SetClass { class: "k".parse().unwrap(), add: nodes(&["b"]), remove: nodes(&[]) };
    fleet.order(class, None).unwrap();
    fleet.tell(MasterCommand::MakeStandby { node: node("b") }).unwrap();
    let old = fleet.node("b").clone();

    let refused = come(&mut fleet, "b", "b2", JoinAs::Replacement, None);
    assert_eq!(refused, Err(Rejection::TokenNotFor { node: node("b") }));
    let refused = come(&mut fleet, "z", "b2", JoinAs::Replacement, Some("z"));
    assert_eq!(refused, Err(Rejection::NothingToReplace { node: node("z") }));
    come(&mut fleet, "b", "b2", JoinAs::Replacement, Some("b")).unwrap();
    let new = fleet.node("b").clone();
    assert_eq!((&new.class, &new.desired, &new.should), (&old.class, &old.desired, &old.should));
    assert_ne!(new.peer, old.peer);
    assert_eq!((new.raft, &new.current), (RaftRole::Member, &Generation::default()), "it has nothing, and no part in Raft");
    assert!(fleet.record.removed().contains(&old.peer));
    // So does one whose forerunner was removed before.
    remove(&mut fleet, "b").unwrap();
    come(&mut fleet, "b", "b3", JoinAs::Replacement, Some("b")).unwrap();
    assert_eq!((&fleet.node("b").class, &fleet.node("b").should), (&old.class, &old.should));
    assert_eq!(come(&mut fleet, "d", "b2", JoinAs::New, None), Err(Rejection::PeerRemoved { node: node("b") }));
}

#[test]
fn a_node_that_is_removed_before_its_changeover_counts_as_a_veto() {
    for step in ["asked", "voted", "staged", "pending", "ready"] {
        let (mut fleet, request, whole) = fleet();
        let app = fleet.record.packages().values().next().unwrap().manifest.clone();
        let id = fleet.submit(request, whole);
        fleet.report(id, "b", NodeReport::Asked { processes: vec![process("svc", 1)] }).unwrap();
        if step != "asked" {
            all_accept(&mut fleet, id);
        }
        if ["staged", "pending", "ready"].contains(&step) {
            all_staged(&mut fleet, id);
        }
        if step == "pending" {
            fleet.report(id, "b", NodeReport::Pending).unwrap();
        }
        if step == "ready" {
            fleet.become_ready(id, "b");
        }
        remove(&mut fleet, "b").unwrap();
        if step == "asked" {
            assert_eq!(*fleet.phase(id), Phase::Asking, "all are heard first");
            fleet.vote(id, "a", &[]);
            fleet.vote(id, "c", &[]);
        }
        assert_eq!(*fleet.phase(id), Phase::Vetoed, "{step}");
        let waiting = serde_json::to_string(&fleet.record.waiting(fleet.update(id)).unwrap()).unwrap();
        assert!(waiting.contains("node b was removed from the cluster"), "{waiting}");
        assert_eq!(fleet.report(id, "b", NodeReport::Staged), Err(Rejection::Outdated), "{step}");
        fleet.decide(id, Decision::AskAgain, None).unwrap();
        assert_eq!(*fleet.phase(id), Phase::Vetoed, "there is nobody to ask");
        let mut rest = plan(&app, &["c", "a"]);
        rest.left_out.insert(node("b"), LeftOut::ByDecision);
        fleet.decide(id, Decision::Only { nodes: nodes(&["a", "c"]) }, Some(rest)).unwrap();
        assert!(matches!(fleet.phase(id), Phase::Distributing | Phase::Wave { wave: 0 }), "{step}: {}", fleet.phase(id));
    }
}

#[test]
fn with_force_an_update_goes_on_without_a_removed_node_and_completes_in_part() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    fleet.vote(id, "a", &[]);
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "no")]);
    remove(&mut fleet, "b").unwrap();
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    fleet.decide(id, Decision::Force { why: "it is scrap".into() }, None).unwrap();
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
fn a_node_that_is_removed_after_the_first_changeover_and_before_its_own_holds_the_update() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    remove(&mut fleet, "c").unwrap();
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 });
    fleet.decide(id, Decision::Force { why: "go on".into() }, None).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 2 }, "its wave is over: it has nobody else");
}

#[test]
fn a_node_that_is_removed_after_its_go_has_failed_and_never_hangs_the_update() {
    for started in [false, true] {
        let (mut fleet, request, mut plan) = fleet();
        plan.waves = vec![vec![node("b"), node("c")], vec![node("a")]];
        let id = fleet.submit(request, plan);
        all_accept(&mut fleet, id);
        all_staged(&mut fleet, id);
        fleet.become_ready(id, "b");
        fleet.become_ready(id, "c");
        fleet.tell(MasterCommand::Go { update: id, nodes: nodes(&["b", "c"]) }).unwrap();
        if started {
            fleet.report(id, "b", NodeReport::Started).unwrap();
        }
        remove(&mut fleet, "b").unwrap();
        assert_eq!(*fleet.phase(id), Phase::Regressing);
        assert_eq!(fleet.step(id, "b"), Step::Failed);
        fleet.report(id, "c", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
        assert_eq!(*fleet.phase(id), ended(Outcome::RegressFailed), "what runs on the removed node did not go back");
    }
}

#[test]
fn a_node_that_is_removed_after_it_settled_does_not_stop_the_others() {
    for cancel in [false, true] {
        let (mut fleet, request, plan) = fleet();
        let id = fleet.submit(request, plan);
        all_accept(&mut fleet, id);
        all_staged(&mut fleet, id);
        fleet.become_ready(id, "b");
        fleet.change_over(id, "b");
        remove(&mut fleet, "b").unwrap();
        assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
        fleet.become_ready(id, "c");
        fleet.change_over(id, "c");
        if cancel {
            fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
            fleet.report(id, "c", NodeReport::Regressed { current: Generation::default(), why: None }).unwrap();
            assert_eq!(*fleet.phase(id), ended(Outcome::RegressFailed));
            continue;
        }
        fleet.become_ready(id, "a");
        fleet.change_over(id, "a");
        fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
        assert_eq!(*fleet.phase(id), ended(Outcome::CompletedInPart));
    }
}

#[test]
fn a_node_that_is_removed_while_it_goes_back_ends_it() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    remove(&mut fleet, "c").unwrap();
    assert_eq!(*fleet.phase(id), Phase::Regressing, "it had nothing to take back");
    remove(&mut fleet, "b").unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::RegressFailed));
}

#[test]
fn an_update_whose_only_node_is_removed_is_aborted() {
    let (mut fleet, _, _) = fleet();
    let app = fleet.record.packages().values().next().unwrap().manifest.clone();
    let id = fleet.submit(install(&["b"], &[app.id()]), plan(&app, &["b"]));
    fleet.vote(id, "b", &[accepts(process("svc", 1))]);
    remove(&mut fleet, "b").unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Aborted));
}

#[test]
fn settings_of_the_cluster_are_checked() {
    let mut fleet = Fleet::new(&["a"]);
    let set = |away: Option<u64>, voters, standbys| UserCommand::SetSettings {
        away_after: away.map(Span::from_secs),
        voters,
        standbys,
    };
    for bad in [set(Some(1), None, None), set(None, Some(2), None), set(None, Some(7), None), set(None, None, Some(3))] {
        assert!(matches!(fleet.order(bad.clone(), None), Err(Rejection::Setting { .. })), "{bad:?}");
    }
    fleet.order(set(Some(5), Some(3), None), None).unwrap();
    let settings = fleet.record.cluster().unwrap().settings.clone();
    assert_eq!((settings.away_after, settings.voters, settings.standbys), (Span::from_secs(5), 3, 2));
    let never = UserCommand::SetVoter { node: node("a"), voter: Some(VoterPreference::Never) };
    assert_eq!(fleet.order(never, None), Err(Rejection::LastVoter { node: node("a") }));
}

#[test]
fn a_node_that_is_removed_from_a_paused_update_counts_as_while_it_goes_on() {
    let paused = || {
        let (mut fleet, request, plan) = fleet();
        let id = fleet.submit(request, plan);
        all_accept(&mut fleet, id);
        all_staged(&mut fleet, id);
        fleet.become_ready(id, "b");
        fleet.change_over(id, "b");
        fleet.order(UserCommand::Pause { update: id }, None).unwrap();
        (fleet, id)
    };
    let (mut fleet, id) = paused();
    remove(&mut fleet, "b").unwrap();
    assert_eq!(fleet.phase(id).to_string(), "paused", "it had settled: the others go on without it");
    let (mut fleet, id) = paused();
    remove(&mut fleet, "c").unwrap();
    assert_eq!(*fleet.phase(id), Phase::Held { wave: 1 }, "before its changeover it counts as a veto");
}

#[test]
fn a_node_on_a_new_disk_has_no_part_in_what_the_one_before_is_still_in() {
    let (mut fleet, request, whole) = fleet();
    let app = fleet.record.packages().values().next().unwrap().manifest.clone();
    let id = fleet.submit(request, whole);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    for name in ["b", "c", "a"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    let newer = manifest("app", "2.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let two = fleet.publish(&newer);
    let id = fleet.submit(install(&["a", "b", "c"], &[two]), plan(&newer, &["b", "c", "a"]));
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    fleet.become_ready(id, "b");
    fleet.change_over(id, "b");
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 });
    assert!(fleet.update(id).holds(&node("b")));
    come(&mut fleet, "b", "b2", JoinAs::Replacement, Some("b")).unwrap();
    assert!(!fleet.update(id).holds(&node("b")) && fleet.update(id).holds(&node("c")));

    let converge = MasterCommand::Converge { node: node("b"), plan: plan(&app, &["b"]) };
    let Ok(Accepted::Update { update }) = fleet.tell(converge) else { panic!("it comes to what it should have") };
    fleet.vote(update, "b", &[]);
    fleet.report(update, "b", NodeReport::Staged).unwrap();
    fleet.become_ready(update, "b");
    fleet.change_over(update, "b");
    fleet.tell(MasterCommand::Verified { update, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(update), ended(Outcome::Completed));

    let back = UpdateRequest { kind: UpdateKind::Regress, ..install(&["b"], &[]) };
    let regress = fleet.submit(back, plan(&app, &["b"]));
    assert_eq!(*fleet.phase(regress), Phase::Asking);
    assert_eq!(*fleet.phase(id), Phase::Wave { wave: 1 }, "the regress takes nothing from it");
}

#[test]
fn a_node_in_the_place_of_one_removed_long_ago_comes_to_what_its_class_has_now() {
    let (mut fleet, ..) = fleet();
    let app = fleet.record.packages().values().next().unwrap().manifest.clone();
    let tool = manifest("tool", "1.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let tool_id = fleet.publish(&tool);
    let class: ClassName = "k".parse().unwrap();
    fleet.order(UserCommand::SetClass { class: class.clone(), add: nodes(&["a", "b"]), remove: nodes(&[]) }, None).unwrap();
    installed(&mut fleet, install(&["b"], &[tool_id]), plan(&tool, &["b"]));
    let mut of_class = install(&[], &[]);
    of_class.targets.classes.insert(class.clone(), [app.id()].into());
    installed(&mut fleet, of_class, plan(&app, &["a", "b"]));
    assert_eq!(fleet.node("b").should.values().copied().collect::<BTreeSet<_>>(), [app.id(), tool_id].into());
    remove(&mut fleet, "b").unwrap();

    fleet.order(UserCommand::RemovePackage { package: tool_id }, None).unwrap();
    let newer = manifest("app", "2.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    let two = fleet.publish(&newer);
    let mut of_class = install(&[], &[]);
    of_class.targets.classes.insert(class, [two].into());
    installed(&mut fleet, of_class, plan(&newer, &["a"]));
    come(&mut fleet, "b", "b2", JoinAs::Replacement, Some("b")).unwrap();
    assert_eq!(fleet.node("b").should.values().collect::<Vec<_>>(), [&two]);
}

/// Carries an update out from its beginning to its end.
fn installed(fleet: &mut Fleet, request: UpdateRequest, plan: Plan) {
    let waves = plan.waves.clone();
    let names = || waves.iter().flatten().map(NodeName::as_str);
    let id = fleet.submit(request, plan);
    names().for_each(|name| fleet.vote(id, name, &[]));
    names().for_each(|name| fleet.report(id, name, NodeReport::Staged).map(drop).unwrap());
    for name in names() {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Completed));
}

#[test]
fn what_went_back_on_a_node_is_not_kept_from_the_one_that_came_in_its_place() {
    let (mut fleet, request, plan) = fleet();
    let id = fleet.submit(request, plan);
    all_accept(&mut fleet, id);
    all_staged(&mut fleet, id);
    for name in ["b", "c"] {
        fleet.become_ready(id, name);
        fleet.change_over(id, name);
    }
    fleet.order(UserCommand::Cancel { update: id }, None).unwrap();
    let back = || NodeReport::Regressed { current: Generation::default(), why: None };
    fleet.report(id, "b", back()).unwrap();
    remove(&mut fleet, "b").unwrap();
    come(&mut fleet, "b", "b2", JoinAs::Replacement, Some("b")).unwrap();
    fleet.report(id, "c", back()).unwrap();
    assert_eq!(*fleet.phase(id), ended(Outcome::Regressed));
    assert_eq!(fleet.record.tombstones().iter().map(|(key, _)| key.node.clone()).collect::<Vec<_>>(), [node("c")]);
}
