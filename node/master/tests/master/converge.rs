//! Nodes that are not what they should be come to it by themselves.

mod missed;

use std::collections::BTreeSet;

use serde_json::json;
use tribune_master::{Liveness, MasterClock, directives, due, has_what_it_should, next_wake, should_have, stays_because};
use tribune_raft_store::command::{Accepted, JoinAs, MasterCommand, Rejection, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::{KEPT_UPDATES, MAX_OPEN_UPDATES};

use crate::fleet::{Fleet, accepts, install, manifest, new_node_with, node, process, vetoes};
use crate::setup::{all_there, class, planned, publish, state};

/// Three nodes in class `edge`, which have `app` 1.0.0 by an update of the class, and the ids of 1.0.0 and 2.0.0.
fn edge() -> (Fleet, PackageId, PackageId) {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    class(&mut fleet, "edge", &["a", "b"]);
    let module = json!({ "name": "main", "run": ["main"] });
    let (one, two) =
        (publish(&mut fleet, "app", "1.0.0", std::slice::from_ref(&module)), publish(&mut fleet, "app", "2.0.0", &[module]));
    let plan = planned(&fleet, &to_class(one));
    let id = fleet.submit(to_class(one), plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    (fleet, one, two)
}

fn to_class(package: PackageId) -> UpdateRequest {
    let mut request = install(&[], &[]);
    request.targets.classes.insert("edge".parse().unwrap(), BTreeSet::from([package]));
    request
}

/// Brings an update of these nodes to its end.
fn carry_out(fleet: &mut Fleet, id: UpdateId, names: &[&str]) {
    for name in names {
        fleet.vote(id, name, &[accepts(process("svc", 1))]);
    }
    for name in names {
        fleet.report(id, name, NodeReport::Staged).unwrap();
    }
    let waves = fleet.update(id).plan.clone().unwrap().waves;
    for name in waves.into_iter().flatten() {
        fleet.become_ready(id, name.as_str());
        fleet.change_over(id, name.as_str());
    }
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
}

/// Who is to converge now.
fn strayed(fleet: &Fleet, liveness: &Liveness, now: MasterClock) -> Vec<MasterCommand> {
    let mut commands = due(&fleet.record, liveness, now, Some(&node("a")));
    commands.retain(|command| matches!(command, MasterCommand::Converge { .. }));
    commands
}

fn begin(fleet: &mut Fleet, liveness: &Liveness) -> UpdateId {
    let mut commands = strayed(fleet, liveness, MasterClock(0));
    assert_eq!(commands.len(), 1, "{commands:?}");
    match fleet.tell(commands.remove(0)) {
        Ok(Accepted::Update { update }) => update,
        other => panic!("{other:?}"),
    }
}

fn begin_with_all(fleet: &mut Fleet) -> UpdateId {
    let liveness = all_there(fleet);
    begin(fleet, &liveness)
}

#[test]
fn a_node_that_joins_a_class_comes_to_what_the_class_has_and_is_asked_first() {
    let (mut fleet, one, _) = edge();
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), []);
    class(&mut fleet, "edge", &["c"]);
    let liveness = all_there(&fleet);
    let id = begin(&mut fleet, &liveness);
    assert_eq!(*fleet.phase(id), Phase::Asking);
    assert_eq!((fleet.update(id).request.kind, fleet.update(id).by.name.as_str()), (UpdateKind::Converge, "tribune"));
    assert_eq!(fleet.update(id).nodes.keys().collect::<Vec<_>>(), [&node("c")]);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), [], "it is on its way");
    carry_out(&mut fleet, id, &["c"]);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Completed });
    assert_eq!(fleet.node("c").current.packages.values().collect::<Vec<_>>(), [&one]);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
}

#[test]
fn a_node_that_was_away_comes_to_what_the_others_got_when_it_is_back() {
    let (mut fleet, _, two) = edge();
    let mut liveness = all_there(&fleet);
    liveness.gone(&node("b"), MasterClock(0));
    let mut request = to_class(two);
    request.options.skip_away = true;
    let plan = tribune_master::plan(&fleet.record, &request, &liveness, Some(&node("a")));
    let id = fleet.submit(request, plan);
    carry_out(&mut fleet, id, &["a"]);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), [], "it is away still");
    let back = all_there(&fleet);
    let id = begin(&mut fleet, &back);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&two]);
}

#[test]
fn what_a_decision_left_out_stays_as_it_is() {
    let (mut fleet, one, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 1), "not now")]);
    let only = tribune_master::plan_again(
        &fleet.record,
        fleet.update(id),
        Some(&[node("a")].into()),
        &all_there(&fleet),
        Some(&node("a")),
    );
    fleet.decide(id, Decision::Only { nodes: [node("a")].into() }, Some(only)).unwrap();
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    assert_eq!(fleet.node("b").should.values().collect::<Vec<_>>(), [&one]);
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), []);
}

#[test]
fn a_decision_leaves_out_only_who_was_in_the_update_and_who_was_away_still_comes_to_it_later() {
    let (mut fleet, one, two) = edge();
    class(&mut fleet, "edge", &["c"]);
    let liveness = all_there(&fleet);
    let id = begin(&mut fleet, &liveness);
    carry_out(&mut fleet, id, &["c"]);
    let mut without_c = all_there(&fleet);
    without_c.gone(&node("c"), MasterClock(0));
    let mut request = to_class(two);
    request.options.skip_away = true;
    let plan = tribune_master::plan(&fleet.record, &request, &without_c, Some(&node("a")));
    let id = fleet.submit(request, plan);
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.vote(id, "b", &[vetoes(process("svc", 1), "not now")]);
    let only = [node("a")].into();
    let only_a = tribune_master::plan_again(&fleet.record, fleet.update(id), Some(&only), &without_c, Some(&node("a")));
    assert_eq!(only_a.left_out, [(node("b"), LeftOut::ByDecision), (node("c"), LeftOut::Away)].into());
    fleet.decide(id, Decision::Only { nodes: only }, Some(only_a)).unwrap();
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(fleet.node("b").should.values().collect::<Vec<_>>(), [&one]);
    let back = all_there(&fleet);
    let id = begin(&mut fleet, &back);
    carry_out(&mut fleet, id, &["c"]);
    assert_eq!(fleet.node("c").current.packages.values().collect::<Vec<_>>(), [&two]);
}

#[test]
fn a_vetoed_convergence_ends_at_once_and_is_tried_again_after_a_minute_and_then_after_two() {
    let (mut fleet, ..) = edge();
    class(&mut fleet, "edge", &["c"]);
    let mut liveness = all_there(&fleet);
    let id = begin(&mut fleet, &liveness);
    fleet.vote(id, "c", &[vetoes(process("svc", 1), "not now")]);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Aborted });
    assert!(fleet.update(id).reason.as_ref().is_some_and(|why| why.contains("svc (pid 1) on node c: not now")));
    liveness.observe(&fleet.record, MasterClock(5_000));
    assert_eq!(strayed(&fleet, &liveness, MasterClock(64_999)), []);
    assert_eq!(next_wake(&fleet.record, &liveness, MasterClock(6_000)), Some(MasterClock(65_000)));
    let again = strayed(&fleet, &liveness, MasterClock(65_000)).remove(0);
    let Ok(Accepted::Update { update }) = fleet.tell(again) else { panic!("it is tried again") };
    fleet.vote(update, "c", &[vetoes(process("svc", 1), "not now")]);
    liveness.observe(&fleet.record, MasterClock(70_000));
    assert_eq!(strayed(&fleet, &liveness, MasterClock(189_999)), []);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(190_000)).len(), 1);
    assert_eq!(fleet.node("c").converging.as_ref().map(|attempts| attempts.count), Some(2));
}

#[test]
fn the_pause_between_attempts_doubles_up_to_an_hour() {
    let pause = |count| Attempts { count, since: Timestamp(0), why: String::new() }.pause();
    let minutes: Vec<u64> = (1..9).map(|count| pause(count).as_millis() / 60_000).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pause(u32::MAX), Span::from_secs(3600));
}

#[test]
fn a_convergence_does_not_cross_a_tombstone_and_the_node_says_why_it_stays() {
    let (mut fleet, _, two) = edge();
    let mut request = install(&["c"], &[two]);
    request.options.on_failure = OnFailure::RegressAll;
    let plan = planned(&fleet, &request);
    let id = fleet.submit(request, plan);
    fleet.vote(id, "c", &[]);
    fleet.report(id, "c", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "c");
    fleet.tell(MasterCommand::Go { update: id, nodes: [node("c")].into() }).unwrap();
    let back = NodeReport::Regressed { current: Generation::default(), why: Some("it crashed".into()) };
    fleet.report(id, "c", back).unwrap();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    class(&mut fleet, "edge", &["c"]);
    let liveness = all_there(&fleet);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
    let why = stays_because(&fleet.record, fleet.node("c"), &liveness, Some(&node("a")));
    assert!(why.len() == 1 && why[0].contains("was regressed on node c"), "{why:?}");
}

#[test]
fn a_node_that_went_back_by_itself_stays_until_it_is_released_and_what_it_left_comes_again_only_if_somebody_says_so() {
    let (mut fleet, one, two) = edge();
    let row = fleet.node("a").clone();
    let gone_back = MasterCommand::NodeState {
        node: node("a"),
        facts: row.facts.clone(),
        current: Generation::default(),
        ephemeral: None,
        kept: [(1, row.current.clone())].into(),
        apart: Some("local-0-77".into()),
    };
    fleet.tell(gone_back.clone()).unwrap();
    assert!(fleet.node("a").is_apart());
    let liveness = all_there(&fleet);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
    let blocked = planned(&fleet, &to_class(two)).blockers;
    assert_eq!(blocked, [Blocker::Apart { node: node("a") }]);
    assert_eq!(fleet.order(UserCommand::ReleaseNode { node: node("b") }, None), Err(Rejection::NotApart { node: node("b") }));
    fleet.order(UserCommand::ReleaseNode { node: node("a") }, None).unwrap();
    fleet.tell(gone_back).unwrap();
    assert!(!fleet.node("a").is_apart(), "it says the same as before");
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
    let why = stays_because(&fleet.record, fleet.node("a"), &liveness, None);
    assert!(why.len() == 1 && why[0].contains("was regressed on node a by itself; use --again"), "{why:?}");
    let mut again = to_class(one);
    again.options.again = true;
    let plan = planned(&fleet, &again);
    let id = fleet.submit(again, plan);
    carry_out(&mut fleet, id, &["a"]);
    assert_eq!(fleet.node("a").current.packages.values().collect::<Vec<_>>(), [&one]);
}

#[test]
fn of_a_class_one_node_at_a_time_comes_to_what_it_should_have() {
    let (mut fleet, ..) = edge();
    for name in ["a", "b"] {
        state(&mut fleet, name, Generation::default());
    }
    let liveness = all_there(&fleet);
    let commands = strayed(&fleet, &liveness, MasterClock(0));
    assert_eq!(commands.len(), 1, "{commands:?}");
    let id = begin(&mut fleet, &liveness);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
    carry_out(&mut fleet, id, &["a"]);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)).len(), 1);
}

#[test]
fn a_class_that_is_regressed_should_have_what_its_nodes_went_back_to() {
    let (mut fleet, one, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    let back = UpdateRequest { kind: UpdateKind::Regress, ..to_class(two) };
    let plan = planned(&fleet, &back);
    let id = fleet.submit(back, plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::Completed });
    let edge = fleet.record.classes().get(&"edge".parse().unwrap()).unwrap();
    assert_eq!(edge.should.values().collect::<Vec<_>>(), [&one]);
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), []);
}

#[test]
fn nobody_can_submit_a_convergence() {
    let (mut fleet, one, _) = edge();
    let request = UpdateRequest { kind: UpdateKind::Converge, ..install(&["c"], &[one]) };
    let plan = planned(&fleet, &request);
    let refused = fleet.order(UserCommand::Submit { request }, Some(tribune_raft_store::command::Evidence::Plan(plan)));
    assert!(matches!(refused, Err(Rejection::Evidence { .. })), "{refused:?}");
}

#[test]
fn what_cannot_go_back_is_not_taken_back_by_a_convergence() {
    let mut fleet = Fleet::new(&["a"]);
    let module = [json!({ "name": "main", "run": ["main"] })];
    let two = fleet.publish(&crate::fleet::manifest("app", "2.0.0", json!({ "regress": "no" }), &module));
    let current = Generation { number: 1, packages: [("app".parse().unwrap(), two)].into(), ..Generation::default() };
    state(&mut fleet, "a", current);
    let liveness = all_there(&fleet);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), [], "it should have nothing, and cannot go back to that");
    let why = stays_because(&fleet.record, fleet.node("a"), &liveness, None);
    assert!(why.len() == 1 && why[0].contains("cannot go back"), "{why:?}");
}

#[test]
fn a_convergence_that_would_have_to_wait_is_not_begun() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let rates = publish(&mut fleet, "rates", "1.0.0", &[json!({ "name": "m", "run": ["m"], "provides": ["rates.api@1.0.0"] })]);
    let user = publish(&mut fleet, "user", "1.0.0", &[json!({ "name": "m", "run": ["m"], "consumes": ["rates.api@^1"] })]);
    class(&mut fleet, "edge", &["a"]);
    let both = to_class(rates);
    let plan = planned(&fleet, &both);
    let id = fleet.submit(both, plan);
    carry_out(&mut fleet, id, &["a"]);
    let plan = planned(&fleet, &to_class(user));
    let id = fleet.submit(to_class(user), plan);
    carry_out(&mut fleet, id, &["a"]);
    // The provider of what `b` is to need is being taken away meanwhile.
    let newer = publish(&mut fleet, "rates", "1.1.0", &[json!({ "name": "m", "run": ["m"], "provides": ["rates.api@1.1.0"] })]);
    let plan = planned(&fleet, &to_class(newer));
    fleet.submit(to_class(newer), plan);
    class(&mut fleet, "edge", &["b"]);
    let liveness = all_there(&fleet);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(0)), []);
    assert!(!fleet.record.updates().values().any(|update| update.request.kind == UpdateKind::Converge));
}

#[test]
fn a_node_on_a_new_disk_does_not_rest_for_what_the_one_before_has_tried() {
    let (mut fleet, ..) = edge();
    state(&mut fleet, "b", Generation::default());
    let convergence = begin_with_all(&mut fleet);
    let token = Signature::of(b"for b");
    let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: Some(node("b")) };
    fleet.order(order, None).unwrap();
    let new = new_node_with("b", "b2");
    fleet.tell(MasterCommand::Join { token, node: new, place: JoinAs::Replacement }).unwrap();
    assert_eq!(*fleet.phase(convergence), Phase::Ended { outcome: Outcome::Aborted });
    assert_eq!(fleet.node("b").converging, None);
}

#[test]
fn a_node_on_a_new_disk_comes_to_what_it_should_have_and_hears_nothing_of_what_the_one_before_was_in() {
    let (mut fleet, one, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    fleet.vote(id, "a", &[]);
    fleet.vote(id, "b", &[vetoes(process("svc", 1), "not now")]);
    let token = Signature::of(b"for b");
    let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: Some(node("b")) };
    fleet.order(order, None).unwrap();
    let new = new_node_with("b", "b2");
    fleet.tell(MasterCommand::Join { token, node: new, place: JoinAs::Replacement }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Vetoed);
    let liveness = all_there(&fleet);
    let convergence = begin(&mut fleet, &liveness);
    let told: Vec<UpdateId> =
        directives(&fleet.record, &node("b"), &BTreeSet::new()).iter().map(|directive| directive.update).collect();
    assert_eq!(told, [convergence]);
    carry_out(&mut fleet, convergence, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&one]);
}

/// Sixty nodes in no class, which should have `app` 1.0.0 and have nothing.
fn many_without_a_class() -> (Fleet, Vec<String>) {
    let (mut fleet, ..) = edge();
    let names: Vec<String> = (0..60).map(|n| format!("n{n:02}")).collect();
    let all: BTreeSet<NodeName> = names.iter().map(|name| node(name)).collect();
    names.iter().for_each(|name| fleet.join(name));
    let edge: ClassName = "edge".parse().unwrap();
    let join = UserCommand::SetClass { class: edge.clone(), add: all.clone(), remove: BTreeSet::new() };
    fleet.order(join, None).unwrap();
    fleet.order(UserCommand::SetClass { class: edge, add: BTreeSet::new(), remove: all }, None).unwrap();
    (fleet, names)
}

#[test]
fn however_many_stray_only_some_converge_at_a_time_and_who_was_not_tried_yet_goes_first() {
    let (mut fleet, names) = many_without_a_class();
    let mut liveness = all_there(&fleet);
    let first = strayed(&fleet, &liveness, MasterClock(0)).remove(0);
    let Ok(Accepted::Update { update }) = fleet.tell(first) else { panic!("the first begins") };
    fleet.vote(update, &names[0], &[vetoes(process("svc", 1), "not now")]);
    liveness.observe(&fleet.record, MasterClock(0));
    let commands = strayed(&fleet, &liveness, MasterClock(60_000));
    let tried: Vec<&NodeName> = commands
        .iter()
        .map(|command| match command {
            MasterCommand::Converge { node, .. } => node,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tried, names[1..51].iter().map(|name| node(name)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    let mut begun = Vec::new();
    for command in commands.clone() {
        let Ok(Accepted::Update { update }) = fleet.tell(command) else { panic!("each begins") };
        begun.push(update);
    }
    assert_eq!(strayed(&fleet, &liveness, MasterClock(60_000)), []);
    carry_out(&mut fleet, begun[0], &[&names[1]]);
    assert_eq!(strayed(&fleet, &liveness, MasterClock(60_000)).len(), 1, "there is room for the next");
    fleet.vote(begun[1], &names[2], &[]);
    fleet.report(begun[1], &names[2], NodeReport::Staged).unwrap();
    fleet.order(UserCommand::Pause { update: begun[1] }, None).unwrap();
    assert_eq!(strayed(&fleet, &liveness, MasterClock(60_000)).len(), 2, "one that waits for a user takes nobody's room");
}

#[test]
fn convergences_that_fail_again_and_again_push_nothing_out_of_the_record_that_users_did() {
    let (mut fleet, ..) = edge();
    class(&mut fleet, "edge", &["c"]);
    let first = strayed(&fleet, &all_there(&fleet), MasterClock(0)).remove(0);
    for _ in 0..KEPT_UPDATES + MAX_OPEN_UPDATES {
        let mut again = first.clone();
        if let MasterCommand::Converge { plan, .. } = &mut again {
            plan.read.insert("node/c".into(), fleet.node("c").version);
        }
        let Ok(Accepted::Update { update }) = fleet.tell(again) else { panic!("it is tried again") };
        fleet.vote(update, "c", &[vetoes(process("svc", 1), "not now")]);
    }
    let updates = fleet.record.updates();
    assert_eq!(updates.len(), KEPT_UPDATES + MAX_OPEN_UPDATES);
    assert!(updates.contains(&UpdateId(1)), "a user's");
    assert!(!updates.contains(&UpdateId(2)), "the first of a convergence");
}

#[test]
fn a_node_comes_back_to_what_a_revoked_publisher_published_and_a_new_member_does_not_get_it() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    class(&mut fleet, "edge", &["a", "b"]);
    let (pat, key) = fleet.publisher("pat");
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main", "run": ["main"] })]);
    fleet.publish_as(&pat, &app).unwrap();
    let plan = planned(&fleet, &to_class(app.id()));
    let id = fleet.submit(to_class(app.id()), plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    fleet.order(UserCommand::RemovePrincipal { key }, None).unwrap();
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), [], "what runs goes on");

    let replaced = Some(fleet.node("b").current.number);
    state(&mut fleet, "b", Generation { number: 9, replaced, ..Generation::default() });
    let id = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&app.id()]);

    class(&mut fleet, "edge", &["c"]);
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), []);
    let why = stays_because(&fleet.record, fleet.node("c"), &all_there(&fleet), Some(&node("a")));
    assert!(why.len() == 1 && why[0].contains("who may not publish any more"), "{why:?}");
}
