//! Whom an update touches on this node: pure, from what is installed and what would be.
//!
//! Its one idea: a change spreads against the arrows of need, and only against them. A module needs those it
//! `depends-on`, and those here that provide an API it consumes in a version that will do; what it needs before the
//! update or after it counts alike. So whoever needs a changed module, perhaps by way of others, is affected, and nobody
//! else is asked.

use std::collections::{BTreeMap, BTreeSet};

use tribune_planted::{Bug, planted};
use tribune_process::protocol::{PackageChange, Proposal, Role};
use tribune_raft_store::model::{ApiConsumed, Changeover, Module, ModuleDependency, PackageId, PackageName, Span, UpdateId};

use crate::local::{Installed, InstalledModule};

/// What an update does to the modules of a node. The sets have no key (`package/module`) in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// They are new.
    pub added: BTreeSet<String>,
    /// Others take their places.
    pub replaced: BTreeSet<String>,
    /// Nothing takes their places.
    pub removed: BTreeSet<String>,
    /// They stay as they are, and need some that do not.
    pub affected: BTreeSet<String>,
}

impl Touched {
    /// Whether the update touches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Touched { added, replaced, removed, affected } = self;
        added.is_empty() && replaced.is_empty() && removed.is_empty() && affected.is_empty()
    }

    /// The modules that are added, replaced or removed.
    #[must_use]
    pub fn changed(&self) -> BTreeSet<String> {
        [&self.added, &self.replaced, &self.removed].into_iter().flatten().cloned().collect()
    }

    /// What the update does to the process of this module; `None` where it does nothing, or there is none yet.
    #[must_use]
    pub fn role(&self, key: &str) -> Option<Role> {
        if self.replaced.contains(key) {
            Some(Role::Replaced)
        } else if self.removed.contains(key) {
            Some(Role::Removed)
        } else if self.affected.contains(key) {
            Some(Role::Affected)
        } else {
            None
        }
    }

    /// Whether a process that is none of the modules, but said what it needs on this node, is affected.
    #[must_use]
    pub fn affects(&self, old: &Installed, new: &Installed, depends_on: &[ModuleDependency], consumes: &[ApiConsumed]) -> bool {
        let touched = |key: &str| self.role(key).is_some() || self.added.contains(key);
        [old, new].into_iter().any(|installed| needs(installed, None, depends_on, consumes).into_iter().any(touched))
    }
}

/// What is touched when `new` takes the place of `old`.
#[must_use]
pub fn touched(old: &Installed, new: &Installed) -> Touched {
    let mut touched = Touched::default();
    for module in old.modules() {
        match new.module(module.key) {
            None => touched.removed.insert(module.key.to_owned()),
            Some(successor) if runs_alike(&module, &successor) => false,
            Some(_) => touched.replaced.insert(module.key.to_owned()),
        };
    }
    touched.added = new.modules().filter(|module| old.module(module.key).is_none()).map(|module| module.key.to_owned()).collect();

    let changed = touched.changed();
    let mut reached = changed.clone();
    let dependants = dependants(old, new);
    let mut waiting: Vec<&str> = changed.iter().map(String::as_str).collect();
    while let Some(key) = waiting.pop() {
        for dependant in dependants.get(key).into_iter().flatten() {
            if reached.insert((*dependant).to_owned()) {
                touched.affected.insert((*dependant).to_owned());
                if !planted(Bug::DependantsNotTransitive) {
                    waiting.push(dependant);
                }
            }
        }
    }
    touched
}

/// Whether the process of one module is as good as the other's: it has the same bytes, and is started in the same way.
/// How it is asked, checked and replaced is for the node to know, and not for the process.
fn runs_alike(old: &InstalledModule<'_>, new: &InstalledModule<'_>) -> bool {
    let Module {
        name: _,
        platform,
        signature,
        size: _,
        kind,
        characteristics: _,
        run,
        listen,
        depends_on: _,
        provides: _,
        consumes: _,
        when_affected: _,
        changeover: Changeover { strategy: _, ready_within: _, drain_within: _ },
        ask: _,
        health: _,
    } = old.module;
    *platform == new.module.platform
        && *signature == new.module.signature
        && *kind == new.module.kind
        && *run == new.module.run
        && *listen == new.module.listen
        && packages_needed(old) == packages_needed(new)
}

/// The packages that a module depends on, in the order in which it names them first: its process finds their folders in
/// its `PATH`.
pub(crate) fn packages_needed<'a>(module: &InstalledModule<'a>) -> Vec<&'a PackageName> {
    let mut packages = Vec::new();
    for package in module.module.depends_on.iter().filter_map(|dependency| dependency.package.as_ref()) {
        if *package != module.package.manifest.name && !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// The modules of a node that something in `own` (a package's name) with these dependencies and APIs needs.
fn needs<'a>(
    installed: &'a Installed,
    own: Option<&PackageName>,
    depends_on: &[ModuleDependency],
    consumes: &[ApiConsumed],
) -> BTreeSet<&'a str> {
    let mut needs = BTreeSet::new();
    for dependency in depends_on {
        // Whatever its version: one that will not do is needed all the same.
        let found = dependency.package.as_ref().or(own).and_then(|p| installed.module(&format!("{p}/{}", dependency.module)));
        needs.extend(found.map(|module| module.key));
    }
    if !consumes.is_empty() {
        let provides = |module: &InstalledModule<'_>| {
            let provided = &module.module.provides;
            consumes.iter().any(|want| provided.iter().any(|api| api.api == want.api && want.version.matches(&api.version)))
        };
        needs.extend(installed.modules().filter(provides).map(|module| module.key));
    }
    needs
}

/// The modules that a module needs on its node.
fn needs_of<'a>(installed: &'a Installed, module: &InstalledModule<'_>) -> BTreeSet<&'a str> {
    let Module { depends_on, consumes, .. } = module.module;
    needs(installed, Some(&module.package.manifest.name), depends_on, consumes)
}

/// By each module, the modules that need it before or after.
fn dependants<'a>(old: &'a Installed, new: &'a Installed) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut dependants: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for installed in [old, new] {
        for module in installed.modules() {
            for needed in needs_of(installed, &module) {
                dependants.entry(needed).or_default().insert(module.key);
            }
        }
    }
    dependants
}

/// The modules to start, or to tell, in an order in which those that are needed come before those that need them; to stop
/// them, go backwards. Of modules that need each other any may be first. Keys that are not installed are left out.
#[must_use]
pub fn start_order(installed: &Installed, keys: &BTreeSet<String>) -> Vec<String> {
    enum Visit<'a> {
        Enter(&'a str),
        Leave(&'a str),
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    // Depth first over all modules: two of the keys may be linked by a module that is none of them.
    let mut todo: Vec<Visit<'_>> = installed.modules().filter(|m| keys.contains(m.key)).map(|m| Visit::Enter(m.key)).collect();
    todo.reverse();
    while let Some(visit) = todo.pop() {
        match visit {
            Visit::Enter(key) => {
                let Some(module) = installed.module(key).filter(|_| seen.insert(key)) else { continue };
                todo.push(Visit::Leave(key));
                todo.extend(needs_of(installed, &module).into_iter().rev().map(Visit::Enter));
            }
            Visit::Leave(key) if keys.contains(key) => order.push(key.to_owned()),
            Visit::Leave(_) => {}
        }
    }
    order
}

/// What is proposed to a process: what the update changes on this node, what it does to the process (`role`), and how long
/// the process has to answer.
#[must_use]
pub fn proposal(
    update: UpdateId,
    revision: u64,
    old: &Installed,
    new: &Installed,
    touched: &Touched,
    role: Role,
    within: Span,
) -> Proposal {
    let names: BTreeSet<&PackageName> = old.generation.packages.keys().chain(new.generation.packages.keys()).collect();
    let packages = names.into_iter().filter_map(|name| {
        let id = |installed: &Installed| installed.generation.packages.get(name).copied();
        package_change(old, new, name, id(old), id(new))
    });
    Proposal {
        update: update.to_string(),
        revision,
        packages: packages.collect(),
        modules: touched.changed().into_iter().collect(),
        left_out: 0,
        role,
        within_ms: within.as_millis(),
    }
    .fitted()
}

/// A package as a proposal shows it; `None` when it stays.
fn package_change(
    old: &Installed,
    new: &Installed,
    name: &PackageName,
    from: Option<PackageId>,
    to: Option<PackageId>,
) -> Option<PackageChange> {
    if from == to {
        return None;
    }
    let version =
        |installed: &Installed, id: Option<PackageId>| installed.package(&id?).map(|stored| stored.manifest.version.to_string());
    let described = if to.is_some() { new } else { old };
    let id = to.or(from)?;
    let modules = described.modules().filter(|module| module.package.id == id);
    let depends_on: BTreeSet<String> =
        modules.flat_map(|module| module.module.depends_on.iter().map(|dependency| in_full(name, dependency))).collect();
    Some(PackageChange {
        name: name.to_string(),
        from: version(old, from),
        to: version(new, to),
        id: id.to_string(),
        depends_on: depends_on.into_iter().collect(),
    })
}

/// A dependency with its package, which it may leave out where it is its own.
fn in_full(own: &PackageName, dependency: &ModuleDependency) -> String {
    let package = Some(dependency.package.clone().unwrap_or_else(|| own.clone()));
    ModuleDependency { package, ..dependency.clone() }.to_string()
}

#[cfg(test)]
mod tests;
