//! Nodes that were away, or on their way into a class, while it changed.

use super::*;

/// The nodes of `edge` came to 2.0.0, and `c` joined them meanwhile; `b` was left out by a decision, or not.
fn joined_meanwhile(without_b: bool) -> (Fleet, PackageId, PackageId) {
    let (mut fleet, one, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    class(&mut fleet, "edge", &["c"]);
    assert_eq!(fleet.node("c").should.values().collect::<Vec<_>>(), [&one], "as the class has it still");
    if without_b {
        fleet.vote(id, "a", &[]);
        fleet.vote(id, "b", &[vetoes(process("svc", 1), "not now")]);
        let only = BTreeSet::from([node("a")]);
        let liveness = all_there(&fleet);
        let rest = tribune_master::plan_again(&fleet.record, fleet.update(id), Some(&only), &liveness, Some(&node("a")));
        fleet.decide(id, Decision::Only { nodes: only }, Some(rest)).unwrap();
        fleet.report(id, "a", NodeReport::Staged).unwrap();
        fleet.become_ready(id, "a");
        fleet.change_over(id, "a");
        fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    } else {
        carry_out(&mut fleet, id, &["a", "b"]);
    }
    (fleet, one, two)
}

#[test]
fn a_node_that_joins_a_class_during_its_update_comes_to_the_new_version_and_one_that_was_left_out_stays() {
    for without_b in [false, true] {
        let (mut fleet, one, two) = joined_meanwhile(without_b);
        let id = begin_with_all(&mut fleet);
        carry_out(&mut fleet, id, &["c"]);
        assert_eq!(fleet.node("c").current.packages.values().collect::<Vec<_>>(), [&two]);
        assert!(fleet.node("c").has_what_it_should());
        let of_b = if without_b { one } else { two };
        assert_eq!(fleet.node("b").should.values().collect::<Vec<_>>(), [&of_b]);
    }
}

#[test]
fn what_a_class_came_to_while_a_node_was_on_its_way_is_what_the_node_should_have() {
    let (mut fleet, _, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    class(&mut fleet, "edge", &["c"]);
    let on_its_way = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["a", "b"]);
    carry_out(&mut fleet, on_its_way, &["c"]);
    assert_eq!(fleet.node("c").should.values().collect::<Vec<_>>(), [&two]);
    let id = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["c"]);
    assert!(fleet.node("c").has_what_it_should());
}

/// An update of the class that leaves out `b`, which is away, is carried out.
fn carried_out_without_b(fleet: &mut Fleet, mut request: UpdateRequest) {
    let mut liveness = all_there(fleet);
    liveness.gone(&node("b"), MasterClock(0));
    request.options.skip_away = true;
    let plan = tribune_master::plan(&fleet.record, &request, &liveness, Some(&node("a")));
    let id = fleet.submit(request, plan);
    carry_out(fleet, id, &["a"]);
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
}

#[test]
fn a_node_that_was_away_while_its_class_went_back_goes_back_when_it_is_there() {
    let (mut fleet, one, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    carry_out(&mut fleet, id, &["a", "b"]);
    carried_out_without_b(&mut fleet, UpdateRequest { kind: UpdateKind::Regress, ..to_class(two) });
    let buried = TombstoneKey { package: two, node: node("b") };
    assert!(fleet.record.tombstones().contains(&buried));
    let id = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&one]);
    assert!(fleet.record.tombstones().contains(&buried));

    // What was regressed comes again, by a user's wish, for the one that is away as for the others.
    let mut again = to_class(two);
    again.options.again = true;
    carried_out_without_b(&mut fleet, again);
    assert!(!fleet.record.tombstones().contains(&buried));
    let id = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&two]);
}

#[test]
fn a_node_that_a_user_went_past_as_away_comes_to_what_the_others_got_when_it_is_back() {
    let (mut fleet, _, two) = edge();
    let plan = planned(&fleet, &to_class(two));
    let id = fleet.submit(to_class(two), plan);
    fleet.vote(id, "a", &[]);
    fleet.tell(MasterCommand::Away { update: id, node: node("b") }).unwrap();
    fleet.decide(id, Decision::Force { why: "it is off for the week".into() }, None).unwrap();
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    assert_eq!(*fleet.phase(id), Phase::Ended { outcome: Outcome::CompletedInPart });
    let id = begin_with_all(&mut fleet);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<Vec<_>>(), [&two]);
}

/// Class `edge`, and a version 3.0.0 of its `app` that is only for nodes with the role `core`: of its nodes that is `a`.
fn edge_and_core() -> (Fleet, PackageId, PackageId) {
    let (mut fleet, one, _) = edge();
    let set = [("role".parse().unwrap(), Desired { value: "core".into(), required: false })].into();
    fleet.order(UserCommand::LabelNode { node: node("a"), set, unset: BTreeSet::new() }, None).unwrap();
    let module = json!({ "name": "main", "run": ["main"], "characteristics": { "role": "core" } });
    let three = publish(&mut fleet, "app", "3.0.0", &[module]);
    (fleet, one, three)
}

#[test]
fn a_node_that_was_away_keeps_a_package_whose_new_version_has_nothing_for_it_as_those_do_that_were_there() {
    let (mut fleet, one, three) = edge_and_core();
    let mut liveness = all_there(&fleet);
    liveness.gone(&node("b"), MasterClock(0));
    let mut request = to_class(three);
    request.options.skip_away = true;
    let plan = tribune_master::plan(&fleet.record, &request, &liveness, Some(&node("a")));
    let id = fleet.submit(request, plan);
    carry_out(&mut fleet, id, &["a"]);
    let back = all_there(&fleet);
    assert_eq!(strayed(&fleet, &back, MasterClock(0)), []);
    assert_eq!(stays_because(&fleet.record, fleet.node("b"), &back, None), Vec::<String>::new());
    assert!(has_what_it_should(&fleet.record, fleet.node("b")));
    assert_eq!(should_have(&fleet.record, fleet.node("b")).values().collect::<Vec<_>>(), [&one]);
    // Something else that it should have does not take it away either.
    let other = publish(&mut fleet, "other", "1.0.0", &[json!({ "name": "main" })]);
    let mut request = to_class(other);
    request.options.skip_away = true;
    let plan = tribune_master::plan(&fleet.record, &request, &liveness, Some(&node("a")));
    let id = fleet.submit(request, plan);
    carry_out(&mut fleet, id, &["a"]);
    let id = begin(&mut fleet, &back);
    carry_out(&mut fleet, id, &["b"]);
    assert_eq!(fleet.node("b").current.packages.values().collect::<BTreeSet<_>>(), [&one, &other].into());
    assert_eq!(fleet.node("b").current.modules.len(), 2);
    assert_eq!(strayed(&fleet, &back, MasterClock(0)), []);
}

#[test]
fn a_node_that_joins_a_class_whose_package_has_nothing_for_it_is_as_it_should_be() {
    let (mut fleet, _, three) = edge_and_core();
    let plan = planned(&fleet, &to_class(three));
    let id = fleet.submit(to_class(three), plan);
    carry_out(&mut fleet, id, &["a"]);
    class(&mut fleet, "edge", &["c"]);
    assert_eq!(strayed(&fleet, &all_there(&fleet), MasterClock(0)), []);
    assert!(has_what_it_should(&fleet.record, fleet.node("c")));
    // A user who wants it to be another comes to have what that kind of node has.
    let set = [("role".parse().unwrap(), Desired { value: "core".into(), required: false })].into();
    fleet.order(UserCommand::LabelNode { node: node("c"), set, unset: BTreeSet::new() }, None).unwrap();
    assert!(!has_what_it_should(&fleet.record, fleet.node("c")));
    let liveness = all_there(&fleet);
    let id = begin(&mut fleet, &liveness);
    carry_out(&mut fleet, id, &["c"]);
    assert_eq!(fleet.node("c").current.packages.values().collect::<Vec<_>>(), [&three]);
}
