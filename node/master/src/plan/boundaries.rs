//! Needs between two waves: there, old and new live side by side.
//!
//! One idea: which needs between nodes are met depends only on which versions are provided and which are asked for anywhere. So
//! nodes are counted in and out of that, and needs are looked at only where it differs from what was looked at already.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use tribune_raft_store::model::{ApiName, NeedKey, Reach};

use super::Planner;
use crate::installed::{Has, Installed};
use crate::needs::{self, Kind};

/// An API in a version.
type Provided<'a> = (&'a ApiName, &'a Version);
/// An API, and what a module says that it needs of it.
type Asked<'a> = (&'a ApiName, String);

/// What is provided and asked for anywhere, and how often.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Apis<'a> {
    provided: BTreeMap<Provided<'a>, u32>,
    asked: BTreeMap<Asked<'a>, u32>,
}

impl<'a> Apis<'a> {
    fn of(installed: &Installed<'a>) -> Self {
        let mut apis = Self::default();
        installed.nodes.values().for_each(|modules| apis.count(modules));
        apis
    }

    fn count(&mut self, modules: &[Has<'a>]) {
        for (provided, asked) in modules.iter().map(keys) {
            provided.into_iter().for_each(|key| *self.provided.entry(key).or_default() += 1);
            asked.into_iter().for_each(|key| *self.asked.entry(key).or_default() += 1);
        }
    }

    fn discount(&mut self, modules: &[Has<'a>]) {
        for (provided, asked) in modules.iter().map(keys) {
            provided.iter().for_each(|key| less(&mut self.provided, key));
            asked.iter().for_each(|key| less(&mut self.asked, key));
        }
    }

    /// Which they are, whatever their number.
    fn which(&self) -> (BTreeSet<Provided<'a>>, BTreeSet<Asked<'a>>) {
        (self.provided.keys().copied().collect(), self.asked.keys().cloned().collect())
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What a module provides, and what it asks for from beyond its node.
fn keys<'a>(has: &Has<'a>) -> (Vec<Provided<'a>>, Vec<Asked<'a>>) {
    let provided = has.module.provides.iter().map(|provided| (&provided.api, &provided.version));
    let asked = has.module.consumes.iter().filter(|needs| needs.reach != Reach::Node);
    (provided.collect(), asked.map(|needs| (&needs.api, needs.to_string())).collect())
}

impl Planner<'_> {
    /// Needs that are unmet between two waves only. `known` ones are unmet before or after, and were looked at.
    pub(super) fn check_boundaries(&mut self, known: &BTreeSet<NeedKey>) {
        let (waves, plans) = (self.plan.waves.clone(), self.plan.nodes.clone());
        let count = waves.len();
        if count < 2 || (self.plan.apis.changes.is_empty() && self.plan.apis.needs.is_empty()) {
            return;
        }
        let before = Installed::now(self.record);
        let mut between = before.clone();
        let last = between.after(self.record, &plans);
        let mut apis = Apis::of(&between);
        let mut seen = BTreeSet::from([apis.which(), Apis::of(&last).which()]);
        let mut found = known.clone();
        for (number, wave) in (1..count).zip(&waves) {
            for name in wave {
                let Some((name, new)) = last.nodes.get_key_value(name) else { continue };
                apis.discount(between.on(name));
                apis.count(new);
                between.nodes.insert(name, new.clone());
            }
            if !seen.insert(apis.which()) {
                continue;
            }
            for (mut need, kind) in needs::unmet(&between) {
                // What was not there before worked for nobody yet: it may wait for its provider.
                let worked = before.on(&need.node).iter().any(|has| has.path() == need.module);
                if kind == Kind::Api && worked && found.insert(NeedKey::from(&need)) {
                    need.found.push_str(&format!(" after wave {number} of {count}"));
                    self.breaks(need, kind);
                }
            }
        }
    }
}
