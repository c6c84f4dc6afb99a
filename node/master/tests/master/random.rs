//! Whatever the record and the request: no panic, and the same answer twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::Strategy;
use serde_json::json;
use tribune_master::{Liveness, MasterClock, directives, due, next_wake, plan, plan_again};
use tribune_raft_store::command::{Evidence, UserCommand};
use tribune_raft_store::model::*;
use tribune_raft_store::record::Record;

use crate::fleet::{Fleet, accepts, manifest, node, process, vetoes};
use crate::setup::{class, state};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A store with packages that need each other, made once.
fn store() -> (Record, u64, Vec<PackageId>) {
    let mut fleet = Fleet::new(&NAMES[..3]);
    let mut ids = Vec::new();
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        let api = format!("ledger.api@{version}");
        let provider = json!({ "name": "d", "provides": [api] });
        let edge = json!({ "name": "e", "characteristics": { "role": "edge" } });
        ids.push(fleet.publish(&manifest("ledger", version, json!({ "upgrade-from": "*" }), &[provider, edge])));
        let consumer =
            json!({ "name": "d", "consumes": ["ledger.api@^1", "ledger.api@2 on node"], "depends-on": ["ledger/d@^1"] });
        ids.push(fleet.publish(&manifest("billing", version, json!({ "regress": "no" }), &[consumer])));
        let foreign = json!({ "name": "f", "platform": "linux/arm64", "consumes": ["ledger.api@2 every"] });
        ids.push(fleet.publish(&manifest("tool", version, json!({}), &[foreign, json!({ "name": "t" })])));
    }
    class(&mut fleet, "edge", &["b", "c"]);
    (fleet.record.clone(), fleet.index, ids)
}

#[derive(Debug, Clone)]
struct Case {
    /// By node: the packages of its last generations.
    history: Vec<(u8, Vec<u8>)>,
    regress: bool,
    nodes: Vec<(u8, Vec<u8>)>,
    class: Option<Vec<u8>>,
    options: u8,
    away: u8,
    reports: Vec<(u8, u8)>,
}

fn case() -> impl Strategy<Value = Case> {
    let packages = || prop::collection::vec(0..10_u8, 0..3);
    (
        prop::collection::vec((0..3_u8, packages()), 0..5),
        any::<bool>(),
        prop::collection::vec((0..4_u8, packages()), 0..3),
        prop::option::weighted(0.3, packages()),
        any::<u8>(),
        0..8_u8,
        prop::collection::vec((0..3_u8, 0..12_u8), 0..20),
    )
        .prop_map(|(history, regress, nodes, class, options, away, reports)| Case {
            history,
            regress,
            nodes,
            class,
            options,
            away,
            reports,
        })
}

fn request(case: &Case, ids: &[PackageId]) -> UpdateRequest {
    // The tenth is in no store.
    let pick =
        |which: &[u8]| which.iter().map(|n| ids.get(usize::from(*n)).copied().unwrap_or(PackageId::new([9; 32]))).collect();
    let bit = |n: u8| case.options & (1 << n) != 0;
    let accept = if bit(0) { BTreeSet::from(["ledger.api".parse().unwrap()]) } else { BTreeSet::new() };
    UpdateRequest {
        kind: if case.regress { UpdateKind::Regress } else { UpdateKind::Install },
        targets: Targets {
            nodes: case.nodes.iter().map(|(n, packages)| (node(NAMES[usize::from(*n)]), pick(packages))).collect(),
            classes: case.class.iter().map(|packages| ("edge".parse().unwrap(), pick(packages))).collect(),
        },
        options: UpdateOptions {
            strategy: if bit(1) { RolloutStrategy::Together } else { RolloutStrategy::Rolling },
            skip_away: bit(2),
            allow_drift: bit(3),
            again: bit(4),
            accept_discrepancies: accept,
            on_failure: if bit(5) { OnFailure::Hold } else { OnFailure::RegressNode },
            ..UpdateOptions::default()
        },
    }
}

/// What a plan must be, whatever it was made for.
fn check_plan(record: &Record, plan: &Plan) -> Result<(), TestCaseError> {
    let in_waves: Vec<_> = plan.waves.iter().flatten().collect();
    prop_assert_eq!(in_waves.len(), plan.nodes.len(), "each node is in one wave");
    prop_assert!(in_waves.iter().all(|name| plan.nodes.contains_key(*name)));
    prop_assert!(!plan.nodes.is_empty() || !plan.blockers.is_empty());
    prop_assert!(plan.nodes.keys().all(|name| !plan.left_out.contains_key(name)));
    for (key, version) in &plan.read {
        prop_assert_eq!(record.version_of(key), Some(*version));
    }
    for (name, part) in &plan.nodes {
        prop_assert!(!part.changes.is_empty());
        let key = format!("node/{name}");
        prop_assert!(plan.read.contains_key(&key), "{}", key);
        for (path, module) in &part.modules {
            let manifest = &record.packages().get(&module.package).unwrap().manifest;
            let planned = &manifest.modules[module.index as usize];
            prop_assert_eq!(format!("{}/{}", manifest.name, planned.name), path.clone());
            prop_assert_eq!(planned.signature, module.signature);
        }
    }
    Ok(())
}

fn report(fleet: &mut Fleet, id: UpdateId, which: u8, what: u8) {
    let name = NAMES[usize::from(which)];
    let current = match fleet.update(id).plan.as_ref().and_then(|plan| plan.nodes.get(&node(name))) {
        Some(part) => fleet.generation(name, part),
        None => Generation::default(),
    };
    let report = match what {
        0 => NodeReport::Voted { ballots: vec![vetoes(process("svc", 1), "no")] },
        1..=3 => NodeReport::Voted { ballots: vec![accepts(process("svc", 1))] },
        4 | 5 => NodeReport::Staged,
        6 => NodeReport::Ready,
        7 => NodeReport::Started,
        8 | 9 => NodeReport::Settled { current },
        10 => NodeReport::Regressed { current, why: Some("unhealthy".into()) },
        _ => NodeReport::Released,
    };
    // Most come at the wrong time.
    let _ = fleet.report(id, name, report);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_for_has_an_answer_and_the_same_one_twice(case in case()) {
        thread_local! {
            static STORE: RefCell<Option<(Record, u64, Vec<PackageId>)>> = const { RefCell::new(None) };
        }
        let (record, index, ids) = STORE.with_borrow_mut(|kept| kept.get_or_insert_with(store).clone());
        let mut fleet = Fleet::with(record, index);
        for (which, packages) in &case.history {
            let name = NAMES[usize::from(*which)];
            let number = fleet.node(name).current.number;
            let mut current = Generation { number: number + 1, replaced: Some(number), ..Generation::default() };
            for id in packages.iter().filter_map(|n| ids.get(usize::from(*n))) {
                let manifest = &fleet.record.packages().get(id).unwrap().manifest;
                current.packages.insert(manifest.name.clone(), *id);
                let paths = manifest.modules.iter().map(|module| (format!("{}/{}", manifest.name, module.name), module.signature));
                current.modules.extend(paths);
            }
            state(&mut fleet, name, current);
        }
        let mut liveness = Liveness::new(MasterClock(0));
        for name in NAMES[..3].iter().enumerate().filter(|(n, _)| case.away & (1 << n) == 0).map(|(_, name)| node(name)) {
            liveness.heard(&name, MasterClock(0), &BTreeSet::from([UpdateId(1)]));
        }
        let request = request(&case, &ids);
        let first = plan(&fleet.record, &request, &liveness, Some(&node("a")));
        let restored = Record::from_entries(fleet.record.entries()).unwrap();
        prop_assert_eq!(&first, &plan(&restored, &request, &liveness, Some(&node("a"))));
        check_plan(&fleet.record, &first)?;
        if !first.blockers.is_empty() {
            return Ok(());
        }
        fleet.order(UserCommand::Submit { request }, Some(Evidence::Plan(first))).unwrap();
        let id = UpdateId(1);
        for (which, what) in &case.reports {
            report(&mut fleet, id, *which, *what);
            // One may stand in the way of the next: after each, the master asks again.
            for _ in 0..4 {
                let due = due(&fleet.record, &liveness, MasterClock(20_000), Some(&node("a")));
                let Some(command) = due.into_iter().next() else { break };
                prop_assert!(fleet.tell(command).is_ok(), "what is due is accepted");
            }
        }
        check_plan(&fleet.record, &plan_again(&fleet.record, fleet.update(id), None, &liveness, None))?;
        let _ = next_wake(&fleet.record, &liveness, MasterClock(20_000));
        let restored = Record::from_entries(fleet.record.entries()).unwrap();
        let known = BTreeSet::from([id, UpdateId(7)]);
        let told: BTreeMap<_, _> = NAMES.iter().map(|name| (name, directives(&fleet.record, &node(name), &known))).collect();
        for (name, told) in told {
            prop_assert_eq!(told, directives(&restored, &node(name), &known), "directives are a function of the record");
        }
    }
}
