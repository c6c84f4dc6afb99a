#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::local::StoredManifest;
use crate::local::tests::fixtures::{having, module, package};

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(ToString::to_string).collect()
}

/// A package with one module of the same name.
fn one(name: &str, version: &str, bytes: &str, more: Value) -> Arc<StoredManifest> {
    package(name, version, &[module(name, bytes, more)])
}

/// The chain A→B→C (C needs B, B needs A), a consumer of A's API, and a bystander.
fn chain(version: &str, bytes: &str) -> Vec<Arc<StoredManifest>> {
    vec![
        one("a", version, bytes, json!({ "provides": ["a.api@1.4.0"], "run": ["a"] })),
        one("b", "1.0.0", "b", json!({ "depends-on": ["a/a@^1"], "run": ["b"] })),
        one("c", "1.0.0", "c", json!({ "depends-on": ["b/b"], "run": ["c"] })),
        one("consumer", "1.0.0", "consumer", json!({ "consumes": ["a.api@^1.2"], "run": ["consumer"] })),
        one(
            "bystander",
            "1.0.0",
            "bystander",
            json!({ "consumes": ["a.api@^2"], "provides": ["b.api@1.0.0"], "run": ["bystander"] }),
        ),
    ]
}

#[test]
fn updating_a_touches_a_b_c_and_the_consumer_and_never_the_bystander() {
    let (old, new) = (having(&chain("1.0.0", "old")), having(&chain("1.1.0", "new")));
    let touched = touched(&old, &new);
    assert_eq!(touched.replaced, set(&["a/a"]));
    assert_eq!(touched.affected, set(&["b/b", "c/c", "consumer/consumer"]));
    assert!(touched.added.is_empty() && touched.removed.is_empty());
    assert_eq!(touched.role("a/a"), Some(Role::Replaced));
    assert_eq!(touched.role("c/c"), Some(Role::Affected));
    assert_eq!(touched.role("bystander/bystander"), None);
    let order = start_order(&new, &set(&["c/c", "b/b", "a/a", "consumer/consumer", "gone/gone"]));
    assert_eq!(order, ["a/a", "b/b", "c/c", "consumer/consumer"]);
    assert_eq!(start_order(&new, &set(&["c/c", "a/a"])), ["a/a", "c/c"], "linked by b, which is not asked for");
}

#[test]
fn a_version_without_other_bytes_or_commands_touches_nothing() {
    let (old, new) = (having(&chain("1.0.0", "same")), having(&chain("1.1.0", "same")));
    assert!(touched(&old, &new).is_empty());
    let settings = |ask: Value, run: &str| having(&[one("a", "1.0.0", "a", json!({ "run": [run], "ask": ask }))]);
    assert!(touched(&settings(json!({}), "a"), &settings(json!({ "silent": "accept" }), "a")).is_empty());
    assert_eq!(touched(&settings(json!({}), "a"), &settings(json!({}), "b")).replaced, set(&["a/a"]));
}

#[test]
fn removing_and_adding_touches_those_that_need_it() {
    let all = chain("1.0.0", "a");
    let (with, without) = (having(&all), having(&all[1..]));
    let removed = touched(&with, &without);
    assert_eq!((removed.removed, removed.affected), (set(&["a/a"]), set(&["b/b", "c/c", "consumer/consumer"])));
    let added = touched(&without, &with);
    assert_eq!(added.role("a/a"), None, "there is no process yet");
    assert_eq!((added.added, added.affected), (set(&["a/a"]), set(&["b/b", "c/c", "consumer/consumer"])));
}

#[test]
fn a_consumer_of_the_old_version_of_an_api_is_asked_about_the_new_one() {
    let provider = |version: &str| one("p", version, version, json!({ "provides": [format!("p.api@{version}")] }));
    let consumer = one("c", "1.0.0", "c", json!({ "consumes": ["p.api@^1 on node"] }));
    let (old, new) = (having(&[provider("1.0.0"), consumer.clone()]), having(&[provider("2.0.0"), consumer]));
    assert_eq!(touched(&old, &new).affected, set(&["c/c"]));
}

#[test]
fn a_registered_process_is_affected_by_what_it_said_it_needs() {
    let (old, new) = (having(&chain("1.0.0", "old")), having(&chain("1.1.0", "new")));
    let touched = touched(&old, &new);
    let affects = |depends_on: &[&str], consumes: &[&str]| {
        let depends_on: Vec<_> = depends_on.iter().map(|text| text.parse().unwrap()).collect();
        let consumes: Vec<_> = consumes.iter().map(|text| text.parse().unwrap()).collect();
        touched.affects(&old, &new, &depends_on, &consumes)
    };
    assert!(affects(&["a/a"], &[]) && affects(&["c/c@^7"], &[]) && affects(&[], &["a.api@1"]));
    assert!(!affects(&["bystander/bystander"], &["b.api@1"]) && !affects(&["a"], &["a.api@2"]));
}

#[test]
fn a_proposal_names_what_changes_with_ids_and_dependencies() {
    let libs = |version: &str, bytes: &str| {
        package("libs", version, &[module("l", bytes, json!({})), module("m", "m", json!({ "depends-on": ["l", "b/b@^1"] }))])
    };
    let mut before = chain("1.0.0", "old");
    before.push(libs("1.0.0", "l"));
    let mut after = chain("1.1.0", "new");
    after.remove(4);
    after.push(libs("2.0.0", "l2"));
    let (old, new) = (having(&before), having(&after));
    let touched = touched(&old, &new);
    let proposal = proposal(UpdateId(7), 3, &old, &new, &touched, Role::Affected, Span::from_secs(5));
    assert_eq!((proposal.update.as_str(), proposal.revision, proposal.within_ms), ("u7", 3, 5000));
    assert_eq!(proposal.modules, ["a/a", "bystander/bystander", "libs/l"]);
    let change = |name: &str, from: Option<&str>, to: Option<&str>, id: PackageId, depends_on: &[&str]| PackageChange {
        name: name.into(),
        from: from.map(Into::into),
        to: to.map(Into::into),
        id: id.to_string(),
        depends_on: depends_on.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        proposal.packages,
        [
            change("a", Some("1.0.0"), Some("1.1.0"), after[0].id, &[]),
            change("bystander", Some("1.0.0"), None, before[4].id, &[]),
            change("libs", Some("1.0.0"), Some("2.0.0"), after[4].id, &["b/b@^1", "libs/l"]),
        ]
    );
}

const MODULES: usize = 8;

/// A node with up to [`MODULES`] modules: for each its bytes (0: it is not there), what it depends on, and which version of
/// which API it provides and consumes.
#[derive(Debug, Clone)]
struct Fleet(Vec<One>);

type One = (u8, Vec<usize>, Option<(u8, u8)>, Option<(u8, u8)>);

impl Fleet {
    fn installed(&self) -> Installed {
        let packages: Vec<_> =
            (0..).zip(&self.0).filter(|(_, (bytes, ..))| *bytes != 0).map(|(n, m)| Self::package(n, m)).collect();
        having(&packages)
    }

    fn package(n: usize, (bytes, needs, provides, consumes): &One) -> Arc<StoredManifest> {
        let needs: Vec<_> = needs.iter().filter(|need| **need != n).map(|need| format!("p{need}/p{need}")).collect();
        let provides: Vec<_> = provides.iter().map(|(api, version)| format!("api{api}@{version}.0.0")).collect();
        let consumes: Vec<_> = consumes.iter().map(|(api, version)| format!("api{api}@^{version}")).collect();
        let more = json!({ "depends-on": needs, "provides": provides, "consumes": consumes });
        one(&format!("p{n}"), "1.0.0", &format!("{n} {bytes}"), more)
    }

    /// Whether the module needs the other, said in the plainest way.
    fn needs(&self, n: usize, other: usize) -> bool {
        let ((here, needs, _, consumes), (there, _, provides, _)) = (&self.0[n], &self.0[other]);
        *here != 0 && *there != 0 && ((n != other && needs.contains(&other)) || (consumes.is_some() && consumes == provides))
    }
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let api = || proptest::option::of((0u8..3, 1u8..3));
    let module = (0u8..3, proptest::collection::vec(0..MODULES, 0..3), api(), api());
    proptest::collection::vec(module, MODULES).prop_map(Fleet)
}

proptest! {
    #[test]
    fn touched_is_what_a_naive_closure_says(before in fleet(), after in fleet(), changes in 0u8..=255) {
        // Only some modules differ at all: else everything would always be touched.
        let after = Fleet((0..MODULES).map(|n| if changes & 1 << n == 0 { &before } else { &after }.0[n].clone()).collect());
        let (old, new) = (before.installed(), after.installed());
        let touched = touched(&old, &new);

        let here = |fleet: &Fleet, n: usize| fleet.0[n].0 != 0;
        let packages = |fleet: &Fleet, n: usize| fleet.0[n].1.iter().copied().filter(|need| *need != n).fold(vec![], |mut all, need| {
            if !all.contains(&need) { all.push(need); }
            all
        });
        let changed: BTreeSet<usize> = (0..MODULES).filter(|n| {
            here(&before, *n) != here(&after, *n)
                || (here(&before, *n) && (before.0[*n].0 != after.0[*n].0 || packages(&before, *n) != packages(&after, *n)))
        }).collect();
        let mut reached = changed.clone();
        for _ in 0..MODULES {
            let more: Vec<usize> = (0..MODULES)
                .filter(|n| reached.iter().any(|other| before.needs(*n, *other) || after.needs(*n, *other)))
                .collect();
            reached.extend(more);
        }
        let keys = |numbers: &BTreeSet<usize>| numbers.iter().map(|n| format!("p{n}/p{n}")).collect::<BTreeSet<_>>();
        prop_assert_eq!(touched.changed(), keys(&changed));
        prop_assert_eq!(&touched.affected, &keys(&reached.difference(&changed).copied().collect()));
        for key in &touched.affected {
            prop_assert!(old.module(key).is_some() && new.module(key).is_some());
        }
    }

    #[test]
    fn what_is_needed_starts_first(fleet in fleet(), wanted in 0u8..=255) {
        // Needing only those before makes a graph without cycles.
        let fleet = Fleet(fleet.0.into_iter().enumerate().map(|(n, (bytes, needs, _, _))| {
            (bytes, needs.into_iter().filter(|need| *need < n).collect(), None, None)
        }).collect());
        let installed = fleet.installed();
        let keys: BTreeSet<String> = (0..MODULES).filter(|n| wanted & 1 << n != 0).map(|n| format!("p{n}/p{n}")).collect();
        let order = start_order(&installed, &keys);
        let there: BTreeSet<String> = keys.into_iter().filter(|key| installed.module(key).is_some()).collect();
        prop_assert_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), there);
        let place = |n: usize| order.iter().position(|key| *key == format!("p{n}/p{n}"));
        for n in 0..MODULES {
            let mut needed = vec![n];
            while let Some(at) = needed.pop() {
                for other in (0..MODULES).filter(|other| fleet.needs(at, *other)) {
                    needed.push(other);
                    if let (Some(first), Some(then)) = (place(other), place(n)) {
                        prop_assert!(first < then, "{:?}", order);
                    }
                }
            }
        }
    }

    #[test]
    fn modules_that_need_each_other_are_each_started_once(fleet in fleet()) {
        let installed = fleet.installed();
        let keys: BTreeSet<String> = installed.modules().map(|module| module.key.to_owned()).collect();
        let order = start_order(&installed, &keys);
        prop_assert_eq!(order.len(), keys.len());
        prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), keys);
    }
}
