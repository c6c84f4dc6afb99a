//! The list of needs that are not met, entry by entry.

use std::collections::BTreeSet;

use serde_json::json;
use tribune_raft_store::command::{MasterCommand, Rejection};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, facts, install, manifest, node};

fn need(module: &str) -> Discrepancy {
    Discrepancy {
        node: node("a"),
        module: module.into(),
        needs: "ledger.api@^1".into(),
        found: "nothing".into(),
        scope: Scope::BetweenNodes,
    }
}

/// What a node has changes.
fn changes(fleet: &mut Fleet, number: u64) {
    let current = Generation { number, ..Generation::default() };
    let state = MasterCommand::NodeState {
        node: node("a"),
        facts: facts(),
        current,
        ephemeral: None,
        kept: Default::default(),
        apart: None,
    };
    fleet.tell(state).unwrap();
}

fn check(fleet: &mut Fleet, needs: &[&str]) -> Result<(), Rejection> {
    let installed = fleet.record.cluster().unwrap().installed;
    let discrepancies = needs.iter().map(|module| need(module)).collect();
    fleet.tell(MasterCommand::Checked { installed, discrepancies, left_out: 0 }).map(drop)
}

fn events(fleet: &Fleet, kind: EventKind) -> usize {
    fleet.record.events().values().filter(|event| event.kind == kind).count()
}

#[test]
fn a_need_is_listed_since_it_was_found_and_is_gone_when_it_is_met_and_each_is_told_once() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.publish(&manifest("app", "1.0.0", json!({}), &[json!({ "name": "main" })]));
    changes(&mut fleet, 1);
    check(&mut fleet, &["app/main"]).unwrap();
    let since = fleet.record.unmet().values().next().unwrap().since;
    assert_eq!(check(&mut fleet, &["app/main"]), Err(Rejection::Outdated), "that was checked already");

    changes(&mut fleet, 2);
    check(&mut fleet, &["app/main", "app/other"]).unwrap();
    let listed: BTreeSet<_> =
        fleet.record.unmet().values().map(|unmet| (unmet.discrepancy.module.as_str(), unmet.since)).collect();
    assert!(listed.len() == 2 && listed.contains(&("app/main", since)), "{listed:?}");
    assert_eq!(events(&fleet, EventKind::Discrepancy), 2, "each is told once");

    changes(&mut fleet, 3);
    check(&mut fleet, &["app/other"]).unwrap();
    assert_eq!(fleet.record.unmet().len(), 1);
    assert_eq!(events(&fleet, EventKind::DiscrepancyRepaired), 1);
}

#[test]
fn a_check_of_what_was_before_counts_no_more() {
    let mut fleet = Fleet::new(&["a"]);
    changes(&mut fleet, 1);
    let before = fleet.record.cluster().unwrap().installed;
    changes(&mut fleet, 2);
    let old = MasterCommand::Checked { installed: before, discrepancies: vec![need("app/main")], left_out: 0 };
    assert_eq!(fleet.tell(old), Err(Rejection::Outdated));
    assert!(fleet.record.unmet().is_empty());
}

#[test]
fn what_is_not_as_planned_is_said_of_the_update_and_is_no_need() {
    let mut fleet = Fleet::new(&["a"]);
    let app = fleet.publish(&manifest("app", "1.0.0", json!({}), &[json!({ "name": "main" })]));
    let plan =
        Plan { revision: 1, nodes: [(node("a"), NodePlan::default())].into(), waves: vec![vec![node("a")]], ..Plan::default() };
    let id = fleet.submit(install(&["a"], &[app]), plan);
    fleet.vote(id, "a", &[]);
    fleet.report(id, "a", NodeReport::Staged).unwrap();
    fleet.become_ready(id, "a");
    fleet.change_over(id, "a");
    let differs = Discrepancy { needs: "signature 07".into(), scope: Scope::AsPlanned, ..need("app/main") };
    fleet.tell(MasterCommand::Verified { update: id, discrepancies: vec![differs] }).unwrap();
    assert_eq!(fleet.update(id).discrepancies.len(), 1);
    assert_eq!((fleet.record.unmet().len(), events(&fleet, EventKind::Discrepancy)), (0, 1));
    check(&mut fleet, &[]).unwrap();
    assert_eq!(events(&fleet, EventKind::DiscrepancyRepaired), 0);
}

#[test]
fn needs_that_are_left_out_are_counted_and_not_taken_for_met() {
    let mut fleet = Fleet::new(&["a"]);
    changes(&mut fleet, 1);
    check(&mut fleet, &["app/a", "app/b"]).unwrap();
    changes(&mut fleet, 2);
    let installed = fleet.record.cluster().unwrap().installed;
    fleet.tell(MasterCommand::Checked { installed, discrepancies: vec![need("app/a")], left_out: 1 }).unwrap();
    assert_eq!(events(&fleet, EventKind::DiscrepancyRepaired), 0, "app/b may still be unmet");
    assert_eq!(fleet.record.cluster().unwrap().unmet_left_out, 1);
    let told = fleet.record.events().values().last().unwrap().text.clone();
    assert!(told.starts_with("1 more needs are not met than the 10000 that are followed"), "{told}");
}
