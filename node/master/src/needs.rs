//! Which needs are not met: module dependencies within a node, API needs within and between nodes.
//!
//! One idea: the answer is a set, so what a plan breaks is the difference of two of them.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use tribune_raft_store::model::{ApiConsumed, ApiName, Discrepancy, ModuleDependency, NodeName, Reach, Scope, TouchedApis};

use crate::installed::{Has, Installed};

/// The most providers that a sentence names.
const NAMED: usize = 3;

/// Who provides an API: by version, on which nodes.
type Providers<'a> = BTreeMap<&'a ApiName, BTreeMap<&'a Version, BTreeSet<&'a NodeName>>>;

/// What kind of thing is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A module on the same node.
    Module,
    /// An API.
    Api,
}

/// Every need that is not met, and of what kind it is.
pub(crate) fn unmet(installed: &Installed<'_>) -> BTreeSet<(Discrepancy, Kind)> {
    let providers = providers(installed);
    let mut unmet = BTreeSet::new();
    for (node, modules) in &installed.nodes {
        for has in modules {
            let missing = has.module.depends_on.iter().filter_map(|needs| missing_module(node, has, needs, modules));
            unmet.extend(missing.map(|need| (need, Kind::Module)));
            let missing = has.module.consumes.iter().filter_map(|needs| missing_api(node, has, needs, &providers));
            unmet.extend(missing.map(|need| (need, Kind::Api)));
        }
    }
    unmet
}

/// The APIs that are provided or needed by modules that one of the two has and the other has not, on any of these nodes.
pub(crate) fn touched_apis<'a>(
    before: &Installed<'a>,
    after: &Installed<'a>,
    nodes: impl Iterator<Item = &'a NodeName>,
) -> BTreeSet<&'a ApiName> {
    let mut apis = BTreeSet::new();
    for node in nodes {
        let (old, new) = (before.on(node), after.on(node));
        let lacks = |all: &[Has<'_>], one: &Has<'_>| !all.iter().any(|has| has.id == one.id && has.index == one.index);
        for has in old.iter().filter(|has| lacks(new, has)).chain(new.iter().filter(|has| lacks(old, has))) {
            apis.extend(apis_of(has));
        }
    }
    apis
}

/// The APIs that an update of these nodes takes: those provided in other versions than before, and those that what changes
/// needs from beyond its node.
pub(crate) fn take<'a>(before: &Installed<'a>, after: &Installed<'a>, nodes: impl Iterator<Item = &'a NodeName>) -> TouchedApis {
    let mut apis = TouchedApis::default();
    for node in nodes {
        let (old, new) = (before.on(node), after.on(node));
        let (was, is) = (provided(old), provided(new));
        apis.changes.extend(was.symmetric_difference(&is).map(|(api, _)| (*api).clone()));
        let is_new = |has: &&Has<'_>| !old.iter().any(|other| other.id == has.id && other.index == has.index);
        let needs = new.iter().filter(is_new).flat_map(|has| &has.module.consumes);
        apis.needs.extend(needs.filter(|needs| needs.reach != Reach::Node).map(|needs| needs.api.clone()));
    }
    apis
}

fn provided<'a>(modules: &[Has<'a>]) -> BTreeSet<(&'a ApiName, &'a Version)> {
    modules.iter().flat_map(|has| &has.module.provides).map(|provided| (&provided.api, &provided.version)).collect()
}

/// The APIs that a module provides, or needs from beyond its node.
pub(crate) fn apis_of<'a>(has: &Has<'a>) -> impl Iterator<Item = &'a ApiName> {
    let provides = has.module.provides.iter().map(|provided| &provided.api);
    provides.chain(has.module.consumes.iter().filter(|needs| needs.reach != Reach::Node).map(|needs| &needs.api))
}

fn providers<'a>(installed: &Installed<'a>) -> Providers<'a> {
    let mut providers = Providers::new();
    for (node, modules) in &installed.nodes {
        for provided in modules.iter().flat_map(|has| &has.module.provides) {
            providers.entry(&provided.api).or_default().entry(&provided.version).or_default().insert(*node);
        }
    }
    providers
}

fn missing_module(node: &NodeName, has: &Has<'_>, needs: &ModuleDependency, there: &[Has<'_>]) -> Option<Discrepancy> {
    let package = needs.package.as_ref().unwrap_or(&has.manifest.name);
    let mut found = there.iter().filter(|other| other.manifest.name == *package && other.module.name == needs.module).peekable();
    let instead =
        found.peek().map_or("nothing".to_owned(), |other| format!("{} of {package} {}", needs.module, other.manifest.version));
    if found.any(|other| needs.version.matches(&other.manifest.version)) {
        return None;
    }
    Some(Discrepancy {
        node: node.clone(),
        module: has.path(),
        needs: needs.to_string(),
        found: instead,
        scope: Scope::WithinNode,
    })
}

fn missing_api(node: &NodeName, has: &Has<'_>, needs: &ApiConsumed, providers: &Providers<'_>) -> Option<Discrepancy> {
    let none = BTreeMap::new();
    let all = providers.get(&needs.api).unwrap_or(&none);
    let (met, scope) = match needs.reach {
        Reach::Anywhere => (all.keys().any(|version| needs.version.matches(version)), Scope::BetweenNodes),
        Reach::Node => {
            (all.iter().any(|(version, nodes)| nodes.contains(node) && needs.version.matches(version)), Scope::WithinNode)
        }
        Reach::Every => (!all.is_empty() && all.keys().all(|version| needs.version.matches(version)), Scope::BetweenNodes),
    };
    if met {
        return None;
    }
    let counts = |version: &Version, at: &NodeName| match needs.reach {
        Reach::Anywhere => true,
        Reach::Node => at == node,
        Reach::Every => !needs.version.matches(version),
    };
    let pairs = all.iter().flat_map(|(version, nodes)| nodes.iter().map(move |at| (*version, *at)));
    let instead: Vec<_> = pairs.filter(|(version, at)| counts(version, at)).collect();
    Some(Discrepancy {
        node: node.clone(),
        module: has.path(),
        needs: needs.to_string(),
        found: words(&needs.api, &instead),
        scope,
    })
}

fn words(api: &ApiName, providers: &[(&Version, &NodeName)]) -> String {
    if providers.is_empty() {
        return "nothing".to_owned();
    }
    let mut words: Vec<_> =
        providers.iter().take(NAMED).map(|(version, node)| format!("{api}@{version} on node {node}")).collect();
    if providers.len() > NAMED {
        words.push(format!("{} more", providers.len() - NAMED));
    }
    words.join(", ")
}
