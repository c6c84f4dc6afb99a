//! What a request would change, and what stands in its way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tribune_master::{Liveness, MasterClock, plan, plan_again};
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, install, manifest, node, nodes};
use crate::setup::{all_there, class, has, planned, publish, regress, sentences, state};

fn app(fleet: &mut Fleet, version: &str) -> PackageId {
    publish(fleet, "app", version, &[json!({ "name": "main", "run": ["main"] })])
}

#[test]
fn a_node_gets_the_modules_for_its_platform_and_keeps_those_of_other_packages() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let tool = publish(&mut fleet, "tool", "1.0.0", &[json!({ "name": "tool" })]);
    has(&mut fleet, "b", &[tool]);
    let modules = [json!({ "name": "main", "platform": "linux/amd64" }), json!({ "name": "main", "platform": "linux/arm64" })];
    let app = publish(&mut fleet, "app", "1.0.0", &modules);
    let plan = planned(&fleet, &install(&["b"], &[app]));
    assert_eq!(sentences(&plan), [""; 0]);
    let part = &plan.nodes[&node("b")];
    assert_eq!(part.changes, [PackageChange { name: "app".parse().unwrap(), from: None, to: Some(app) }]);
    let names: Vec<_> = part.modules.iter().map(|(path, module)| (path.as_str(), module.package, module.index)).collect();
    assert_eq!(names, [("app/main", app, 0), ("tool/tool", tool, 0)]);
    assert_eq!((plan.revision, plan.waves, part.local), (1, vec![vec![node("b")]], false));
    assert_eq!(plan.read, BTreeMap::from([("node/b".to_owned(), fleet.node("b").version)]));
}

#[test]
fn what_is_not_known_is_named() {
    let mut fleet = Fleet::new(&["a"]);
    let app = app(&mut fleet, "1.0.0");
    let mut request = install(&["a", "nowhere"], &[app, PackageId::new([9; 32])]);
    request.targets.classes.insert("none".parse().unwrap(), [app].into());
    let blockers = planned(&fleet, &request).blockers;
    assert_eq!(
        blockers,
        [
            Blocker::UnknownNode { node: node("nowhere") },
            Blocker::UnknownClass { class: "none".parse().unwrap() },
            Blocker::UnknownPackage { package: PackageId::new([9; 32]) },
        ]
    );
}

#[test]
fn two_versions_of_a_package_for_one_node_are_refused() {
    let mut fleet = Fleet::new(&["a"]);
    let (one, two) = (app(&mut fleet, "1.0.0"), app(&mut fleet, "2.0.0"));
    let blockers = planned(&fleet, &install(&["a"], &[one, two])).blockers;
    assert_eq!(blockers, [Blocker::TwoVersions { node: node("a"), package: "app".parse().unwrap() }]);
}

#[test]
fn a_missing_variant_and_a_tie_are_blockers() {
    let mut fleet = Fleet::new(&["a"]);
    let missing = publish(&mut fleet, "app", "1.0.0", &[json!({ "name": "main", "platform": "linux/arm64" })]);
    let (set, unset) = ([("x", "1"), ("y", "1")], Default::default());
    let desired = |value: &str| Desired { value: value.to_owned(), required: false };
    let set = set.iter().map(|(key, value)| (key.parse().unwrap(), desired(value))).collect();
    fleet.order(UserCommand::LabelNode { node: node("a"), set, unset }, None).unwrap();
    let variants =
        [json!({ "name": "main", "characteristics": { "x": "1" } }), json!({ "name": "main", "characteristics": { "y": "1" } })];
    let tie = publish(&mut fleet, "other", "1.0.0", &variants);
    let plan = planned(&fleet, &install(&["a"], &[missing, tie]));
    let problems = sentences(&plan);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("missing for linux/amd64")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("suit equally well")), "{problems:?}");
}

#[test]
fn nodes_where_nothing_changes_are_left_out_and_if_all_are_there_is_nothing_to_do() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let app = app(&mut fleet, "1.0.0");
    let edge = publish(&mut fleet, "edge", "1.0.0", &[json!({ "name": "e", "characteristics": { "role": "edge" } })]);
    has(&mut fleet, "a", &[app]);
    let plan = planned(&fleet, &install(&["a", "b"], &[app, edge]));
    assert_eq!(plan.nodes.keys().collect::<Vec<_>>(), [&node("b")]);
    assert!(plan.left_out[&node("a")].to_string().contains("it has app 1.0.0 already"), "{:?}", plan.left_out);
    assert!(plan.left_out[&node("a")].to_string().contains("edge 1.0.0 has nothing for it"), "{:?}", plan.left_out);
    let plan = planned(&fleet, &install(&["a"], &[app]));
    assert_eq!(sentences(&plan), ["nothing would change: node a: it has app 1.0.0 already"]);
}

#[test]
fn a_dependency_that_would_not_be_there_is_a_blocker() {
    let mut fleet = Fleet::new(&["a"]);
    let user = publish(&mut fleet, "user", "1.0.0", &[json!({ "name": "main", "depends-on": ["rates/table@^2"] })]);
    let old = publish(&mut fleet, "rates", "1.0.0", &[json!({ "name": "table" })]);
    let new = publish(&mut fleet, "rates", "2.1.0", &[json!({ "name": "table" })]);
    let needs = "rates/table@^2".to_owned();
    let blocker = Blocker::Dependency { node: node("a"), module: "user/main".into(), needs };
    assert_eq!(planned(&fleet, &install(&["a"], &[user])).blockers, std::slice::from_ref(&blocker));
    assert_eq!(planned(&fleet, &install(&["a"], &[user, old])).blockers, std::slice::from_ref(&blocker));
    assert_eq!(planned(&fleet, &install(&["a"], &[user, new])).blockers, []);
    has(&mut fleet, "a", &[user, new]);
    assert_eq!(planned(&fleet, &install(&["a"], &[old])).blockers, [blocker], "it is broken by another package's change");
}

#[test]
fn a_need_that_the_update_breaks_on_another_node_blocks_unless_it_is_accepted_by_name() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let one = publish(&mut fleet, "ledger", "1.0.0", &[json!({ "name": "d", "provides": ["ledger.api@1.4.0"] })]);
    let two = publish(&mut fleet, "ledger", "2.0.0", &[json!({ "name": "d", "provides": ["ledger.api@2.0.0"] })]);
    let billing = publish(&mut fleet, "billing", "1.0.0", &[json!({ "name": "d", "consumes": ["ledger.api@^1.4"] })]);
    has(&mut fleet, "a", &[one]);
    has(&mut fleet, "b", &[billing]);
    let mut request = install(&["a"], &[two]);
    let plan = planned(&fleet, &request);
    let need = Discrepancy {
        node: node("b"),
        module: "billing/d".into(),
        needs: "ledger.api@^1.4".into(),
        found: "ledger.api@2.0.0 on node a".into(),
        scope: Scope::BetweenNodes,
    };
    assert_eq!(plan.blockers, [Blocker::Need(need.clone())]);
    assert_eq!(plan.read.keys().collect::<Vec<_>>(), ["node/a", "node/b"], "node c has nothing to do with it");
    request.options.accept_discrepancies.insert("ledger.api".parse().unwrap());
    let plan = planned(&fleet, &request);
    assert_eq!((plan.blockers, plan.accepted), (vec![], vec![need]));
    has(&mut fleet, "c", &[one]);
    assert_eq!(planned(&fleet, &install(&["a"], &[two])).blockers, [], "node c still provides it");
}

#[test]
fn a_need_that_was_not_met_before_is_not_the_updates_doing() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let billing = publish(&mut fleet, "billing", "1.0.0", &[json!({ "name": "d", "consumes": ["ledger.api@^1.4"] })]);
    let mut request = install(&["b"], &[billing]);
    assert_eq!(planned(&fleet, &request).blockers.len(), 1, "a new module with an unmet need");
    request.options.accept_discrepancies.insert("ledger.api".parse().unwrap());
    let part = planned(&fleet, &request).nodes[&node("b")].clone();
    let current = fleet.generation("b", &part);
    state(&mut fleet, "b", current);
    let app = app(&mut fleet, "1.0.0");
    assert_eq!(planned(&fleet, &install(&["a", "b"], &[app])).blockers, []);
    assert_eq!(tribune_master::discrepancies(&fleet.record).len(), 1, "it is a discrepancy all the same");
}

#[test]
fn needs_on_the_same_node_and_of_every_provider_are_checked_as_such() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let one = publish(&mut fleet, "clock", "1.0.0", &[json!({ "name": "d", "provides": ["clock.api@1.0.0"] })]);
    let two = publish(&mut fleet, "clock", "2.0.0", &[json!({ "name": "d", "provides": ["clock.api@2.0.0"] })]);
    let here = publish(&mut fleet, "here", "1.0.0", &[json!({ "name": "d", "consumes": ["clock.api@1 on node"] })]);
    let every = publish(&mut fleet, "every", "1.0.0", &[json!({ "name": "d", "consumes": ["clock.api@1 every"] })]);
    has(&mut fleet, "a", &[one]);
    let found = |plan: Plan| {
        plan.blockers
            .into_iter()
            .map(|blocker| match blocker {
                Blocker::Need(need) => (need.node.to_string(), need.found, need.scope),
                other => panic!("{other}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(found(planned(&fleet, &install(&["b"], &[here]))), [("b".into(), "nothing".into(), Scope::WithinNode)]);
    assert_eq!(found(planned(&fleet, &install(&["a"], &[here]))), []);
    has(&mut fleet, "a", &[every]);
    let broken = [("a".to_owned(), "clock.api@2.0.0 on node b".to_owned(), Scope::BetweenNodes)];
    assert_eq!(found(planned(&fleet, &install(&["b"], &[two]))), broken);
}

#[test]
fn a_version_may_say_which_it_replaces() {
    let mut fleet = Fleet::new(&["a"]);
    let one = app(&mut fleet, "1.0.0");
    let four = manifest("app", "4.0.0", json!({ "upgrade-from": ">=3" }), &[json!({ "name": "main" })]);
    let four = fleet.publish(&four);
    assert_eq!(planned(&fleet, &install(&["a"], &[four])).blockers, [], "nothing is replaced");
    has(&mut fleet, "a", &[one]);
    let words = sentences(&planned(&fleet, &install(&["a"], &[four])));
    assert_eq!(words, ["on node a, app 4.0.0 may only replace versions >=3, and 1.0.0 is installed"]);
}

#[test]
fn a_node_that_is_away_blocks_or_is_left_out() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let app = app(&mut fleet, "1.0.0");
    let mut liveness = all_there(&fleet);
    liveness.gone(&node("b"), MasterClock(5));
    let mut request = install(&["a", "b"], &[app]);
    let away = plan(&fleet.record, &request, &liveness, None);
    assert_eq!(away.blockers, [Blocker::NodeAway { node: node("b") }]);
    request.options.skip_away = true;
    let skipped = plan(&fleet.record, &request, &liveness, None);
    assert_eq!((skipped.blockers.len(), skipped.nodes.len()), (0, 1));
    assert_eq!(skipped.left_out[&node("b")], LeftOut::Away);
}

#[test]
fn one_node_of_a_class_does_not_change_alone() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let app = app(&mut fleet, "1.0.0");
    class(&mut fleet, "edge", &["b", "c"]);
    let mut request = install(&["b"], &[app]);
    let drift = [Blocker::Drift { node: node("b"), class: "edge".parse().unwrap() }];
    assert_eq!(planned(&fleet, &request).blockers, drift);
    request.options.allow_drift = true;
    assert_eq!(planned(&fleet, &request).blockers, []);
    assert_eq!(planned(&fleet, &install(&["b", "c"], &[app])).blockers, [], "the whole class, node by node");
    let mut whole = install(&[], &[]);
    whole.targets.classes.insert("edge".parse().unwrap(), [app].into());
    let plan = planned(&fleet, &whole);
    assert_eq!((plan.blockers.len(), plan.nodes.len()), (0, 2));
    assert!(plan.read.contains_key("class/edge"));
}

#[test]
fn nodes_change_over_one_at_a_time_members_first_and_the_master_last() {
    let mut fleet = Fleet::new(&["a", "b", "c", "d"]);
    let app = app(&mut fleet, "1.0.0");
    fleet.tell(MasterCommand::MakeStandby { node: node("b") }).unwrap();
    fleet.tell(MasterCommand::MakeStandby { node: node("c") }).unwrap();
    fleet.tell(MasterCommand::MakeVoter { node: node("c") }).unwrap();
    let mut request = install(&["a", "b", "c", "d"], &[app]);
    let order: Vec<Vec<_>> = planned(&fleet, &request).waves;
    assert_eq!(order, ["d", "b", "c", "a"].map(|name| vec![node(name)]));
    request.options.strategy = RolloutStrategy::Together;
    assert_eq!(planned(&fleet, &request).waves.len(), 1);
}

#[test]
fn one_node_of_each_class_changes_over_at_a_time_and_voters_one_by_one() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut fleet = Fleet::new(&all);
    class(&mut fleet, "core", &["b", "c", "d"]);
    class(&mut fleet, "edge", &["e", "f"]);
    fleet.tell(MasterCommand::MakeStandby { node: node("b") }).unwrap();
    fleet.tell(MasterCommand::MakeVoter { node: node("b") }).unwrap();
    let app = app(&mut fleet, "1.0.0");
    let mut request = install(&all, &[app]);
    request.options.allow_drift = true;
    let waves: Vec<BTreeSet<NodeName>> =
        planned(&fleet, &request).waves.into_iter().map(|wave| wave.into_iter().collect()).collect();
    assert_eq!(waves, [nodes(&["c", "e", "g"]), nodes(&["d", "f", "h"]), nodes(&["b"]), nodes(&["a"])]);
}

#[test]
fn a_regress_goes_back_to_the_generation_before_from_local_storage() {
    let mut fleet = Fleet::new(&["a"]);
    let (one, two) = (app(&mut fleet, "1.0.0"), app(&mut fleet, "2.0.0"));
    assert_eq!(sentences(&planned(&fleet, &regress("a", &[]))), ["node a has nothing to go back to"]);
    has(&mut fleet, "a", &[one]);
    let plan = planned(&fleet, &regress("a", &[]));
    assert_eq!(plan.nodes[&node("a")].changes[0].to, None, "before its first package it had none");
    has(&mut fleet, "a", &[two]);
    let plan = planned(&fleet, &regress("a", &[]));
    let part = &plan.nodes[&node("a")];
    assert_eq!((part.changes[0].from, part.changes[0].to, part.local), (Some(two), Some(one), true));
    assert_eq!(part.modules["app/main"].package, one);
}

#[test]
fn a_named_package_goes_back_alone_and_comes_from_the_store_if_the_node_does_not_hold_it() {
    let mut fleet = Fleet::new(&["a"]);
    let (one, two, three) = (app(&mut fleet, "1.0.0"), app(&mut fleet, "2.0.0"), app(&mut fleet, "3.0.0"));
    let tool = publish(&mut fleet, "tool", "1.0.0", &[json!({ "name": "tool" })]);
    has(&mut fleet, "a", &[one]);
    has(&mut fleet, "a", &[three]);
    has(&mut fleet, "a", &[tool]);
    let to = |fleet: &Fleet, named| {
        let plan = planned(fleet, &regress("a", &[named]));
        let part = plan.nodes.get(&node("a")).unwrap_or_else(|| panic!("{:?}", plan.blockers));
        (part.changes.len(), part.changes[0].to, part.local, part.modules.len())
    };
    assert_eq!(to(&fleet, three), (1, Some(one), true, 2), "what it had before, the tool stays");
    assert_eq!(to(&fleet, one), (1, Some(one), true, 2));
    assert_eq!(to(&fleet, two), (1, Some(two), false, 2), "it never had it");
    assert_eq!(to(&fleet, tool), (1, None, true, 1), "it had none before");
}

#[test]
fn what_was_regressed_is_not_installed_again_nor_gone_back_to() {
    let mut fleet = Fleet::new(&["a"]);
    let (one, two) = (app(&mut fleet, "1.0.0"), app(&mut fleet, "2.0.0"));
    has(&mut fleet, "a", &[one]);
    has(&mut fleet, "a", &[two]);
    let request = regress("a", &[]);
    let id = fleet.submit(request.clone(), planned(&fleet, &request));
    fleet.vote(id, "a", &[]);
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    let mut again = install(&["a"], &[two]);
    let blocker = Blocker::Tombstone { node: node("a"), package: "app 2.0.0".into(), update: Some(id) };
    assert_eq!(planned(&fleet, &again).blockers, [blocker]);
    again.options.again = true;
    assert_eq!(planned(&fleet, &again).blockers, []);
    let back = planned(&fleet, &request);
    assert!(back.nodes.values().flat_map(|part| &part.changes).all(|change| change.to != Some(two)), "{back:?}");
}

#[test]
fn data_that_cannot_go_back_does_not() {
    let mut fleet = Fleet::new(&["a"]);
    let one = app(&mut fleet, "1.0.0");
    let two = manifest("app", "2.0.0", json!({ "regress": "no" }), &[json!({ "name": "main" })]);
    let two = fleet.publish(&two);
    has(&mut fleet, "a", &[one]);
    has(&mut fleet, "a", &[two]);
    let words = sentences(&planned(&fleet, &regress("a", &[])));
    assert_eq!(words, ["node a has nothing to go back to from app 2.0.0: its data cannot go back (regress = \"no\")"]);
}

#[test]
fn a_plan_for_some_nodes_is_checked_again() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let one = publish(&mut fleet, "ledger", "1.0.0", &[json!({ "name": "d", "provides": ["ledger.api@1.0.0"] })]);
    let user = publish(&mut fleet, "user", "1.0.0", &[json!({ "name": "d", "consumes": ["ledger.api@^1"] })]);
    let mut request = install(&["a"], &[one]);
    request.targets.nodes.insert(node("b"), [user].into());
    let id = fleet.submit(request.clone(), planned(&fleet, &request));
    let again = |names: &[&str]| {
        let there = all_there(&fleet);
        plan_again(&fleet.record, fleet.update(id), Some(&nodes(names)), &there, Some(&node("a")))
    };
    let some = again(&["a"]);
    assert_eq!((some.revision, some.blockers.len(), some.nodes.len()), (2, 0, 1));
    assert_eq!(some.left_out[&node("b")], LeftOut::ByDecision);
    assert_eq!(again(&["b"]).blockers.len(), 1, "without the ledger its user has nothing");
}

#[test]
fn a_master_that_heard_of_nobody_blocks_and_does_not_panic() {
    let mut fleet = Fleet::new(&["a"]);
    let app = app(&mut fleet, "1.0.0");
    let request = install(&["a"], &[app]);
    let nobody = Liveness::default();
    assert_eq!(plan(&fleet.record, &request, &nobody, None).blockers, [Blocker::NodeAway { node: node("a") }]);
    let empty = tribune_raft_store::record::Record::default();
    assert_eq!(plan(&empty, &request, &nobody, None).nodes.len(), 0);
}

/// Nodes `a` and `b`, where `b` asks for what `a` provides; both come in an incompatible version at once.
fn both_change(reach: &str) -> (Fleet, UpdateRequest) {
    let mut fleet = Fleet::new(&["a", "b"]);
    let ledger = |version: &str| json!({ "name": "ledgerd", "run": ["l"], "provides": [format!("ledger.api@{version}")] });
    let bill = |range: &str| json!({ "name": "billd", "run": ["b"], "consumes": [format!("ledger.api@{range}{reach}")] });
    let old = publish(&mut fleet, "ledger", "1.0.0", &[ledger("1.0.0")]);
    let new = publish(&mut fleet, "ledger", "2.0.0", &[ledger("2.0.0")]);
    let one = publish(&mut fleet, "bill", "1.0.0", &[bill("^1")]);
    let two = publish(&mut fleet, "bill", "2.0.0", &[bill("^2")]);
    has(&mut fleet, "a", &[old]);
    has(&mut fleet, "b", &[one]);
    let mut request = install(&["a"], &[new]);
    request.targets.nodes.insert(node("b"), [two].into());
    (fleet, request)
}

#[test]
fn a_need_that_is_unmet_only_between_two_waves_is_found() {
    for reach in ["", " every"] {
        let (fleet, mut request) = both_change(reach);
        let plan = planned(&fleet, &request);
        let between = sentences(&plan);
        assert!(between.len() == 1 && between[0].contains("after wave 1 of 2"), "{between:?}");
        request.options.accept_discrepancies.insert("ledger.api".parse().unwrap());
        let accepted = planned(&fleet, &request);
        assert_eq!((accepted.blockers.len(), accepted.accepted.len()), (0, 1));
        request.options.accept_discrepancies.clear();
        request.options.strategy = RolloutStrategy::Together;
        assert_eq!(sentences(&planned(&fleet, &request)), [] as [&str; 0], "nothing lives side by side");
    }
}

#[test]
fn what_a_revoked_publisher_published_comes_to_no_node_and_who_has_it_keeps_it_and_goes_back_to_it() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let (pat, key) = fleet.publisher("pat");
    let version = |version: &str| manifest("app", version, json!({}), &[json!({ "name": "main" })]);
    let [one, two, three] = ["1.0.0", "2.0.0", "3.0.0"].map(|number| {
        fleet.publish_as(&pat, &version(number)).unwrap();
        version(number).id()
    });
    let tool = publish(&mut fleet, "tool", "1.0.0", &[json!({ "name": "tool" })]);
    has(&mut fleet, "a", &[one]);
    has(&mut fleet, "a", &[two]);
    assert_eq!(planned(&fleet, &install(&["b", "c"], &[two])).blockers, []);
    fleet.order(UserCommand::RemovePrincipal { key }, None).unwrap();

    let words = sentences(&planned(&fleet, &install(&["b", "c"], &[two])));
    let expected = format!(
        "app 2.0.0 was published by key {}, who may not publish any more; let somebody who may publish it again (`tribune package publish`)",
        key.short()
    );
    assert_eq!(words, [expected], "once, for all nodes");
    assert_eq!(planned(&fleet, &install(&["a"], &[tool])).blockers, [], "what stays stands in no way");
    for back in [vec![], vec![two], vec![three]] {
        assert_eq!(planned(&fleet, &regress("a", &back)).blockers, [], "to {back:?}");
    }
    fleet.publish(&version("2.0.0"));
    assert_eq!(planned(&fleet, &install(&["b", "c"], &[two])).blockers, [], "somebody else stands for it");
}
