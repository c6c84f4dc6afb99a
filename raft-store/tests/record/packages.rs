//! Packages that leave the store, and what keeps them there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tribune_raft_store::command::{MasterCommand, Rejection, Response, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::Record;

use crate::fleet::{Fleet, accepts, install, manifest, node, process};

fn version(number: &str) -> Manifest {
    manifest("app", number, json!({}), &[json!({ "name": "main", "run": ["main"] })])
}

fn change(from: Option<PackageId>, to: &Manifest) -> Plan {
    let module = PlannedModule { package: to.id(), index: 0, signature: to.modules[0].signature, size: 1000 };
    let change = PackageChange { name: to.name.clone(), from, to: Some(to.id()) };
    let one = NodePlan { changes: vec![change], modules: BTreeMap::from([("app/main".into(), module)]), local: false };
    Plan { revision: 1, nodes: BTreeMap::from([(node("a"), one)]), waves: vec![vec![node("a")]], ..Plan::default() }
}

fn remove(fleet: &mut Fleet, package: PackageId) -> Response {
    fleet.order(UserCommand::RemovePackage { package }, None)
}

/// By what a package is needed, as the refusal says it.
fn needed(fleet: &mut Fleet, package: PackageId) -> Vec<String> {
    match remove(fleet, package) {
        Err(Rejection::Pinned { needed_by, .. }) => needed_by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_node_has_can_go_back_to_or_should_have_and_what_an_update_changes_stays_in_the_store() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let (old, new) = (version("1.0.0"), version("2.0.0"));
    let (first, second) = (fleet.publish(&old), fleet.publish(&new));
    let run = |fleet: &mut Fleet, plan: Plan, package: PackageId| {
        let id = fleet.submit(install(&["a"], &[package]), plan);
        assert_eq!(needed(fleet, package).last().unwrap(), &format!("{id} is open and changes it"));
        fleet.vote(id, "a", &[accepts(process("svc", 1))]);
        fleet.report(id, "a", NodeReport::Staged).unwrap();
        fleet.become_ready(id, "a");
        fleet.change_over(id, "a");
        fleet.tell(MasterCommand::Verified { update: id, discrepancies: Vec::new() }).unwrap();
    };
    run(&mut fleet, change(None, &old), first);
    assert_eq!(needed(&mut fleet, first), ["node a has it"]);
    run(&mut fleet, change(Some(first), &new), second);
    assert_eq!(needed(&mut fleet, first), ["node a can go back to it"]);
    assert_eq!(needed(&mut fleet, second), ["node a has it"]);
    assert!(fleet.record.packages().contains(&first) && fleet.record.packages().contains(&second));
}

#[test]
fn what_nothing_needs_leaves_and_its_name_and_version_stand_for_it_for_ever() {
    let mut fleet = Fleet::new(&["a"]);
    let first = fleet.publish(&version("1.0.0"));
    let plan = change(None, &version("1.0.0"));
    remove(&mut fleet, first).unwrap();
    assert!(!fleet.record.packages().contains(&first));
    assert_eq!(fleet.record.events().values().next_back().unwrap().text, "ada removed app 1.0.0 from the package store");
    assert_eq!(remove(&mut fleet, first), Err(Rejection::UnknownPackage { package: first }));

    // A plan that was made before is made anew.
    let request = install(&["a"], &[first]);
    let evidence = tribune_raft_store::command::Evidence::Plan(plan);
    let refused = fleet.order(UserCommand::Submit { request }, Some(evidence));
    assert!(refused.as_ref().unwrap_err().is_outdated(), "{refused:?}");

    // Also after a restart the version stands for the same contents.
    let mut fleet = Fleet::with(Record::from_entries(fleet.record.entries()).unwrap(), fleet.index);
    let other = manifest("app", "1.0.0", json!({ "summary": "another" }), &[json!({ "name": "main" })]);
    let (packages, evidence) = (BTreeSet::from([other.id()]), fleet.copies(&other));
    let refused = fleet.order(UserCommand::Publish { packages }, Some(evidence));
    assert!(matches!(refused, Err(Rejection::VersionTaken { id, .. }) if id == first), "{refused:?}");
    assert_eq!(fleet.publish(&version("1.0.0")), first, "it comes back as it was");
    assert!(fleet.record.packages().contains(&first));
}

#[test]
fn what_many_need_is_named_by_some_of_them() {
    let names: Vec<String> = (0..15).map(|number| format!("n{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fleet = Fleet::new(&names);
    let app = version("1.0.0");
    let id = fleet.publish(&app);
    for name in &names {
        let current = Generation { number: 1, packages: BTreeMap::from([(app.name.clone(), id)]), ..Generation::default() };
        let facts = crate::fleet::facts();
        let state =
            MasterCommand::NodeState { node: node(name), facts, current, ephemeral: None, kept: BTreeMap::new(), apart: None };
        fleet.tell(state).unwrap();
    }
    let needed = needed(&mut fleet, id);
    assert_eq!((needed.len(), needed.last().map(String::as_str)), (11, Some("and 5 more")));
}

#[test]
fn what_was_regressed_stays_buried_also_when_it_leaves_the_store_and_comes_back() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let app = version("1.0.0");
    let first = fleet.publish(&app);
    let id = fleet.submit(install(&["a"], &[first]), change(None, &app));
    fleet.vote(id, "a", &[accepts(process("svc", 1))]);
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.tell(MasterCommand::Go { update: id, nodes: [node("a")].into() }).unwrap();
    let why = Some("it crashed".to_owned());
    fleet.report(id, "a", NodeReport::Regressed { current: Generation::default(), why }).unwrap();
    assert_eq!(fleet.record.tombstones().len(), 1);
    remove(&mut fleet, first).unwrap();
    assert_eq!(fleet.publish(&app), first);
    assert_eq!(fleet.record.tombstones().len(), 1);
}
