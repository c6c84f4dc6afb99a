//! Which nodes and classes get which packages: from flags, an image, and what there is.
//!
//! One idea: everything that was named is looked up before anything is asked of the cluster, and what does not exist is an
//! error that names what there is.

use std::collections::{BTreeMap, BTreeSet};

use tribune_messages::api::{ClassInfo, NodeInfo};
use tribune_package::{Inspection, PackageRef};
use tribune_raft_store::model::{ClassName, NodeName, PackageId, Targets};

use crate::args::{RegressArgs, TargetArgs};
use crate::exit::Exit;
use crate::manifests::Manifests;
use crate::output::words::list;
use crate::problem::{Done, Problem};

/// What there is to choose from.
pub struct Fleet {
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
    /// The classes.
    pub classes: Vec<ClassInfo>,
    /// The packages in the store.
    pub packages: Manifests,
}

impl Fleet {
    fn node(&self, name: &NodeName) -> Done<&NodeInfo> {
        let found = self.nodes.iter().find(|info| info.node.name == *name);
        found.ok_or_else(|| Problem::unknown("node", name, &texts(self.nodes.iter().map(|info| &info.node.name))))
    }

    fn class(&self, name: &ClassName) -> Done<&ClassInfo> {
        let found = self.classes.iter().find(|info| info.class.name == *name);
        found.ok_or_else(|| Problem::unknown("class", name, &texts(self.classes.iter().map(|info| &info.class.name))))
    }

    /// The one package of the store that is meant.
    fn package(&self, wanted: &PackageRef) -> Done<PackageId> {
        let meant: Vec<_> = self.packages.all().filter(|(_, manifest)| wanted.means(manifest)).collect();
        match meant[..] {
            [(id, _)] => Ok(*id),
            [] => {
                let known: Vec<String> = self.full_names(|manifest| manifest.name == wanted.name);
                let known = if known.is_empty() { self.full_names(|_| true) } else { known };
                Err(Problem::unknown("package", wanted, &known))
            }
            _ => Err(ambiguous(
                wanted,
                &texts(meant.iter().map(|(_, manifest)| format!("{}@{}", manifest.name, manifest.version))),
            )),
        }
    }

    fn full_names(&self, wanted: impl Fn(&tribune_raft_store::model::Manifest) -> bool) -> Vec<String> {
        let all = self.packages.all().filter(|(_, manifest)| wanted(manifest));
        all.map(|(_, manifest)| format!("{}@{}", manifest.name, manifest.version)).collect()
    }
}

fn texts<T: ToString>(names: impl Iterator<Item = T>) -> Vec<String> {
    names.map(|name| name.to_string()).collect()
}

fn ambiguous(wanted: &PackageRef, versions: &[String]) -> Problem {
    Problem::new(format!("there are several versions of {}: {}", wanted.name, versions.join(", ")), "name one of them")
}

/// The targets of an update: of the image's own list, narrowed by flags, or of flags alone.
pub fn targets(args: &TargetArgs, image: Option<&Inspection>, fleet: &Fleet) -> Done<Targets> {
    for node in &args.node {
        fleet.node(node)?;
    }
    for class in &args.class {
        fleet.class(class)?;
    }
    let all = match image {
        Some(image) => match &image.targets {
            Some(list) => return own_list(args, image, list, fleet),
            None => chosen(args, image)?,
        },
        None => args.package.iter().map(|package| fleet.package(package)).collect::<Done<BTreeSet<_>>>()?,
    };
    if args.node.is_empty() && args.class.is_empty() {
        let what = if image.is_some() { "this file has no target list, and no target was named" } else { "no target was named" };
        return Err(Problem::with(Exit::Usage, what, "name nodes with --node or classes with --class"));
    }
    Ok(Targets {
        nodes: args.node.iter().map(|node| (node.clone(), all.clone())).collect(),
        classes: args.class.iter().map(|class| (class.clone(), all.clone())).collect(),
    })
}

/// The packages of a file that the flags leave: all of them without flags.
fn chosen(args: &TargetArgs, image: &Inspection) -> Done<BTreeSet<PackageId>> {
    if args.package.is_empty() {
        return Ok(image.packages.iter().map(|package| package.id).collect());
    }
    args.package.iter().map(|wanted| in_image(wanted, image)).collect()
}

fn in_image(wanted: &PackageRef, image: &Inspection) -> Done<PackageId> {
    let meant: Vec<_> = image.packages.iter().filter(|package| wanted.means(&package.manifest)).collect();
    let full =
        |package: &&tribune_package::build::InspectedPackage| format!("{}@{}", package.manifest.name, package.manifest.version);
    match meant[..] {
        [package] => Ok(package.id),
        [] => {
            let there_are: Vec<String> = image.packages.iter().map(|package| full(&package)).collect();
            Err(Problem::new(format!("the file has no package {wanted}"), format!("it has: {}", there_are.join(", "))))
        }
        _ => Err(ambiguous(wanted, &meant.iter().map(full).collect::<Vec<_>>())),
    }
}

/// An image's own list, all of whose names must exist, narrowed by the flags.
fn own_list(args: &TargetArgs, image: &Inspection, list: &tribune_package::Targets, fleet: &Fleet) -> Done<Targets> {
    for node in list.nodes.keys() {
        fleet.node(node).map_err(refused_whole)?;
    }
    for class in list.classes.keys() {
        fleet.class(class).map_err(refused_whole)?;
    }
    let ids =
        |wanted: &BTreeSet<PackageRef>| wanted.iter().map(|package| in_image(package, image)).collect::<Done<BTreeSet<_>>>();
    let mut targets = Targets::default();
    for (node, wanted) in &list.nodes {
        targets.nodes.insert(node.clone(), ids(wanted)?);
    }
    for (class, wanted) in &list.classes {
        targets.classes.insert(class.clone(), ids(wanted)?);
    }
    if !args.node.is_empty() || !args.class.is_empty() {
        targets = narrowed(args, &targets, fleet)?;
    }
    if !args.package.is_empty() {
        keep_packages(&mut targets, &chosen(args, image)?);
        if targets.nodes.is_empty() && targets.classes.is_empty() {
            return Err(Problem::new(
                "the image's list has nothing of this for these nodes",
                "`tribune image inspect` shows the list",
            ));
        }
    }
    Ok(targets)
}

fn refused_whole(problem: Problem) -> Problem {
    Problem { what: format!("the image's target list cannot be used: {}", problem.what), ..problem }
}

/// Those nodes and classes of a list that were named. A node may be in the list by its class.
fn narrowed(args: &TargetArgs, targets: &Targets, fleet: &Fleet) -> Done<Targets> {
    let mut narrow = Targets::default();
    for class in &args.class {
        let ids = targets.classes.get(class).ok_or_else(|| not_listed("class", class, targets))?;
        narrow.classes.insert(class.clone(), ids.clone());
    }
    for node in &args.node {
        let by_class = fleet.node(node)?.node.class.as_ref().and_then(|class| targets.classes.get(class));
        let ids: BTreeSet<PackageId> = targets.nodes.get(node).into_iter().chain(by_class).flatten().copied().collect();
        if ids.is_empty() {
            return Err(not_listed("node", node, targets));
        }
        narrow.nodes.insert(node.clone(), ids);
    }
    Ok(narrow)
}

fn not_listed(kind: &str, name: impl std::fmt::Display, targets: &Targets) -> Problem {
    let nodes = targets.nodes.keys().map(|node| format!("node {node}"));
    let there_are = list(nodes.chain(targets.classes.keys().map(|class| format!("class {class}"))));
    Problem::new(format!("the image's target list has nothing for {kind} {name}"), format!("it names: {there_are}"))
}

/// Takes out all other packages, and targets without any.
fn keep_packages(targets: &mut Targets, keep: &BTreeSet<PackageId>) {
    fn only<N: Ord>(map: &mut BTreeMap<N, BTreeSet<PackageId>>, keep: &BTreeSet<PackageId>) {
        for ids in map.values_mut() {
            ids.retain(|id| keep.contains(id));
        }
        map.retain(|_, ids| !ids.is_empty());
    }
    only(&mut targets.nodes, keep);
    only(&mut targets.classes, keep);
}

/// The targets of a regress. A package without a version means, on each node, the one it had before.
pub fn regress_targets(args: &RegressArgs, fleet: &Fleet) -> Done<Targets> {
    let mut targets = Targets::default();
    for node in &args.node {
        let info = fleet.node(node)?;
        targets.nodes.insert(node.clone(), go_back_to(args, info, fleet)?);
    }
    for class in &args.class {
        let members = &fleet.class(class)?.nodes;
        let each: Vec<_> = members.iter().map(|node| go_back_to(args, fleet.node(node)?, fleet)).collect::<Done<_>>()?;
        let Some(first) = each.first() else {
            return Err(Problem::new(
                format!("class {class} has no nodes"),
                "`tribune class list` shows the classes and their nodes",
            ));
        };
        if let Some(place) = each.iter().position(|ids| ids != first) {
            let what = format!("nodes {} and {} of class {class} had different versions before", members[0], members[place]);
            return Err(Problem::new(what, "name the version: --package NAME@VERSION"));
        }
        targets.classes.insert(class.clone(), first.clone());
    }
    Ok(targets)
}

fn go_back_to(args: &RegressArgs, info: &NodeInfo, fleet: &Fleet) -> Done<BTreeSet<PackageId>> {
    let one = |package: &PackageRef| match package.version {
        Some(_) => fleet.package(package),
        None => version_before(package, info),
    };
    args.package.iter().map(one).collect()
}

/// What the node had of this package before what it has now.
fn version_before(package: &PackageRef, info: &NodeInfo) -> Done<PackageId> {
    let node = &info.node;
    let Some(now) = node.current.packages.get(&package.name) else {
        let has = texts(node.current.packages.keys());
        return Err(Problem::new(
            format!("node {} does not have package {}", node.name, package.name),
            format!("it has: {}", list(has)),
        ));
    };
    let mut generation = node.current.replaced;
    while let Some(older) = generation.and_then(|number| node.kept.get(&number)) {
        match older.packages.get(&package.name) {
            Some(id) if id == now => generation = older.replaced.filter(|number| *number < older.number),
            Some(id) => return Ok(*id),
            None => break,
        }
    }
    Err(Problem::new(
        format!("node {} keeps no other version of {}", node.name, package.name),
        "name a version of the package store: --package NAME@VERSION",
    ))
}

#[cfg(test)]
mod tests;
