//! Packages and the files that carry them as text.

use tribune_messages::api::PackageInfo;
use tribune_package::{Inspection, Targets};
use tribune_raft_store::model::{Manifest, Module};

use super::table::Table;
use super::words::{clean, count, list, or_dash, size, time};
use crate::manifests::Manifests;

/// `package list`.
pub fn packages(packages: &[PackageInfo], manifests: &Manifests) -> String {
    let mut table = Table::new(["package", "version", "modules", "published", "by", "copies", "id"]);
    for info in packages {
        let Some(manifest) = manifests.get(&info.id) else { continue };
        table.row([
            manifest.name.to_string(),
            manifest.version.to_string(),
            manifest.modules.len().to_string(),
            time(info.published),
            info.published_by.clone(),
            info.copies.to_string(),
            info.id.short(),
        ]);
    }
    super::fleet::or_none(table.to_string(), "there is no package in the store", packages.is_empty())
}

/// `package show` of a package in the store.
pub fn stored(info: &PackageInfo, text: &Manifest) -> String {
    let head = format!("{}id         {}\n", manifest_head(text), info.id);
    let published = format!(
        "published  {} by {}, on {}\n",
        time(info.published),
        clean(&info.published_by),
        count(info.copies as usize, "voter")
    );
    format!("{head}{published}\n{}", modules(text))
}

/// A package that is in no store.
pub fn manifest(manifest: &Manifest) -> String {
    format!("{}id         {}\n\n{}", manifest_head(manifest), manifest.id(), modules(manifest))
}

fn manifest_head(manifest: &Manifest) -> String {
    let mut text = format!("package    {} {}\n", manifest.name, manifest.version);
    if !manifest.summary.is_empty() {
        text.push_str(&format!("summary    {}\n", clean(&manifest.summary)));
    }
    if let Some(from) = &manifest.upgrade_from {
        text.push_str(&format!("replaces   {from}\n"));
    }
    if manifest.regress == tribune_raft_store::model::Regress::No {
        text.push_str("regress    no: its data cannot go back\n");
    }
    text
}

/// Every module with its signature and needs.
fn modules(manifest: &Manifest) -> String {
    let mut text = String::new();
    for module in &manifest.modules {
        text.push_str(&format!("module {}/{} for {}\n", manifest.name, module.name, module.platform));
        let mut table = Table::plain();
        for (name, value) in module_facts(module) {
            table.row([name.to_owned(), value]);
        }
        text.push_str(&table.indented(2));
    }
    text
}

fn module_facts(module: &Module) -> Vec<(&'static str, String)> {
    let mut facts = vec![("signature", module.signature.to_string()), ("size", size(module.size))];
    let mut add = |name, value: String| {
        if value != "-" {
            facts.push((name, value));
        }
    };
    add("only where", list(module.characteristics.iter().map(|(key, value)| format!("{key}={value}"))));
    add("run", or_dash(module.run.join(" ")));
    add("listen", list(module.listen.iter().map(|listen| listen.as_str())));
    add("depends on", list(&module.depends_on));
    add("provides", list(&module.provides));
    add("consumes", list(&module.consumes));
    add("asked", module.ask.how.to_string());
    facts
}

/// `package inspect` and `image inspect`.
pub fn file(file: &Inspection) -> String {
    let modules = count(file.blobs.len(), "module");
    let mut text = format!("every byte is verified: {}, {modules}, {}\n", count(file.packages.len(), "package"), size(file.size));
    for package in &file.packages {
        text.push_str(&format!("\n{}", manifest(&package.manifest)));
    }
    if let Some(targets) = &file.targets {
        text.push_str(&format!("\n{}", self::targets(targets)));
    }
    text
}

/// A target list.
fn targets(targets: &Targets) -> String {
    let mut table = Table::new(["target", "packages"]);
    for (node, packages) in &targets.nodes {
        table.row([format!("node {node}"), list(packages)]);
    }
    for (class, packages) in &targets.classes {
        table.row([format!("class {class}"), list(packages)]);
    }
    format!("{table}\n")
}
