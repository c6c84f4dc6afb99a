//! The cluster, its nodes, classes, logs and events as text.

use std::collections::BTreeMap;

use tribune_messages::api::{ClassInfo, LocalInfo, LogText, NodeInfo, Status};
use tribune_raft_store::model::{Discrepancy, Event, Generation, PackageName, Principal, PublicKey, Settings, Unmet};

use super::table::Table;
use super::words::{self, clean, list, or_dash, span, time};
use crate::json::raft_role;
use crate::manifests::Manifests;

/// Names and what they stand for, one a line.
fn facts<const N: usize>(facts: [(&str, String); N]) -> Table {
    let mut table = Table::plain();
    for (name, value) in facts {
        table.row([format!("{name}:"), value]);
    }
    table
}

/// `status`.
pub fn status(status: &Status) -> String {
    let Status { cluster, node, version, master, no_master_for, role, nodes, voters, age, generation, open_updates, problems } =
        status;
    let master = match (master, no_master_for) {
        (Some(master), _) => master.to_string(),
        (None, Some(since)) => format!("none for {}", span(*since)),
        (None, None) => "none".into(),
    };
    let table = facts([
        ("cluster", cluster.to_string()),
        ("node", format!("{node} ({role}, tribune {version})")),
        ("master", master),
        ("voters", list(voters)),
        ("nodes", nodes.to_string()),
        ("generation", generation.to_string()),
        ("open updates", list(open_updates)),
        ("last heard from the master", format!("{} ago", span(*age))),
    ]);
    let mut text = table.to_string();
    for problem in problems {
        text.push_str(&format!("\nproblem: {}", clean(problem)));
    }
    text
}

/// Packages with versions: `billing 2.3.1, rates 1.0.0`.
fn versions(packages: &BTreeMap<PackageName, String>) -> String {
    list(packages.iter().map(|(name, version)| format!("{name} {version}")))
}

/// Whether a node is there, and whether it is to leave.
fn state(info: &NodeInfo) -> String {
    let there = if info.connected { "connected" } else { "away" };
    if info.node.leaving.is_some() { format!("{there}, leaving") } else { there.into() }
}

/// `node list`.
pub fn nodes(nodes: &[NodeInfo]) -> String {
    let mut table = Table::new(["name", "state", "role", "class", "platform", "packages"]);
    for info in nodes {
        let state = state(info);
        let role = if info.master { "master" } else { raft_role(info.node.raft) };
        let class = info.node.class.as_ref().map(ToString::to_string).unwrap_or_default();
        let platform = info.node.facts.platform.to_string();
        let drift = match (info.node.is_apart(), info.packages == info.should) {
            (true, _) => " (apart)",
            (false, true) => "",
            (false, false) => " (drift)",
        };
        let runs = match &info.node.ephemeral {
            Some(ephemeral) => format!(", until a restart {} ({})", versions(&info.runs), ephemeral.update),
            None => String::new(),
        };
        let packages = format!("{}{drift}{runs}", versions(&info.packages));
        table.row([info.node.name.to_string(), state, role.into(), or_dash(class), platform, packages]);
    }
    table.to_string()
}

/// `node show`.
pub fn node(info: &NodeInfo) -> String {
    let NodeInfo { node, connected: _, master, packages, runs, should, drift } = info;
    let role = if *master { "master".to_owned() } else { raft_role(node.raft).to_owned() };
    let desired = node.desired.iter().map(|(key, desired)| {
        let required = if desired.required { " (required)" } else { "" };
        format!("{key}={}{required}", desired.value)
    });
    let mut text = facts([
        ("node", node.name.to_string()),
        ("peer", node.peer.to_string()),
        ("state", state(info)),
        ("role", role),
        ("class", or_dash(node.class.as_ref().map(ToString::to_string).unwrap_or_default())),
        ("platform", node.facts.platform.to_string()),
        ("labels", list(desired)),
        ("discovered", list(node.facts.discovered.iter().map(|(key, value)| format!("{key}={value}")))),
        ("control", list(&node.facts.control_addresses)),
        ("data", list(&node.facts.data_addresses)),
        ("version", node.facts.version.clone()),
        ("joined", time(node.joined)),
        ("packages", versions(packages)),
        (
            "runs until a restart",
            node.ephemeral.as_ref().map_or_else(|| "-".into(), |by| format!("{}, by {}", versions(runs), by.update)),
        ),
        ("should have", versions(should)),
        ("drift", or_dash(drift.iter().map(|why| clean(why)).collect::<Vec<_>>().join("; "))),
        ("generation", node.current.number.to_string()),
        ("can go back to", list(node.kept.keys())),
    ])
    .to_string();
    if !node.current.modules.is_empty() {
        let mut modules = Table::new(["module", "signature"]);
        for (name, signature) in &node.current.modules {
            modules.row([name.clone(), signature.to_string()]);
        }
        text.push_str(&format!("\n\n{modules}"));
    }
    text
}

/// `cluster settings`.
pub fn settings(settings: &Settings) -> String {
    let Settings { away_after, voters, standbys } = settings;
    let table = facts([
        ("a node is away after", span(*away_after)),
        ("voters at most", voters.to_string()),
        ("standbys at most", standbys.to_string()),
    ]);
    table.to_string()
}

/// `admin list`.
pub fn principals(principals: &[(PublicKey, Principal)]) -> String {
    let mut table = Table::new(["name", "role", "added", "public key"]);
    for (key, Principal { name, role, added }) in principals {
        table.row([name.to_string(), words::role(*role).into(), time(*added), key.to_string()]);
    }
    table.to_string()
}

/// `check`.
pub fn unmet(unmet: &[Unmet]) -> String {
    let mut table = Table::new(["node", "module", "needs", "there is", "since", "by", "accepted by"]);
    for Unmet { discrepancy, since, update, accepted_by } in unmet {
        let Discrepancy { node, module, needs, found, scope: _ } = discrepancy;
        table.row([
            node.to_string(),
            module.clone(),
            needs.clone(),
            found.clone(),
            ago(*since),
            or_dash(update.as_ref().map(ToString::to_string).unwrap_or_default()),
            or_dash(accepted_by.clone().unwrap_or_default()),
        ]);
    }
    or_none(table.to_string(), "every need is met", unmet.is_empty())
}

/// `class list`.
pub fn classes(classes: &[ClassInfo]) -> String {
    let mut table = Table::new(["class", "nodes", "should have"]);
    for info in classes {
        table.row([info.class.name.to_string(), list(&info.nodes), versions(&info.should)]);
    }
    table.to_string()
}

/// `process logs`. Control characters other than line ends are taken out.
pub fn log(log: &LogText) -> String {
    log.text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// An event on one line.
pub fn event(event: &Event) -> String {
    format!("{}  {}", time(event.at), clean(&event.text))
}

/// A generation on one line.
pub fn generation(generation: &Generation, manifests: &Manifests) -> String {
    let names = manifests.names();
    let packages = generation.packages.iter().map(|(name, id)| format!("{name} {}", names.version(id)));
    format!("generation {} with {}", generation.number, list(packages))
}

/// `local show`.
pub fn local(info: &LocalInfo, manifests: &Manifests) -> String {
    let LocalInfo { node, current, ephemeral, kept, manifests: _, open, failed } = info;
    let mut text = format!("node {node} is on {}\n", generation(current, manifests));
    if let Some(ephemeral) = ephemeral {
        let names = manifests.names();
        let runs = list(ephemeral.packages.iter().map(|(name, id)| format!("{name}@{}", names.version(id))));
        text.push_str(&format!("until it is restarted it runs {runs}, by {}\n", ephemeral.update));
    }
    if !kept.is_empty() {
        text.push_str("\ncan go back to\n");
        for (number, older) in kept {
            let before = if Some(*number) == current.replaced { " (the one before)" } else { "" };
            text.push_str(&format!("  {}{before}\n", generation(older, manifests)));
        }
    }
    if !current.modules.is_empty() {
        let mut modules = Table::new(["installed module", "signature"]);
        for (name, signature) in &current.modules {
            modules.row([name.clone(), signature.to_string()]);
        }
        text.push_str(&format!("\n{modules}\n"));
    }
    for (_, manifest) in manifests.all() {
        text.push_str(&format!("\n{}", super::package::manifest(manifest)));
    }
    for (update, what) in open {
        text.push_str(&format!("\nopen: {update}: {}\n", clean(what)));
    }
    for failure in failed {
        text.push_str(&format!("\nfailed: {}\n", clean(failure)));
    }
    text
}

/// What a list says that has nothing.
pub fn or_none(text: String, nothing: &str, empty: bool) -> String {
    if empty { nothing.to_owned() } else { text }
}

/// How long ago, for lists.
pub fn ago(then: tribune_raft_store::model::Timestamp) -> String {
    words::ago(words::now(), then)
}
