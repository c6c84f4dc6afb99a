//! What users and processes were told of an update, in words that are the same for every update of its kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::probe::{Entry, Said};

/// An update's number and versions, for which an account has `U`, `NEW` and `OLD`.
#[derive(Debug, Clone)]
pub struct Names {
    pub update: String,
    pub old: String,
    pub new: String,
}

impl Names {
    /// A value in which they are written so.
    pub fn plain(&self, value: &Value) -> Result<Value> {
        let text = value.to_string().replace(&self.new, "NEW").replace(&self.old, "OLD");
        let mut plain = String::new();
        // `u1` is no part of `u12`, nor of a word.
        let mut rest = text.as_str();
        while let Some(at) = rest.find(&self.update) {
            let (before, after) = (&rest[..at], &rest[at + self.update.len()..]);
            let alone = !before.ends_with(|c: char| c.is_alphanumeric()) && !after.starts_with(|c: char| c.is_alphanumeric());
            plain.push_str(before);
            plain.push_str(if alone { "U" } else { &self.update });
            rest = after;
        }
        plain.push_str(rest);
        Ok(serde_json::from_str(&plain)?)
    }
}

/// What was told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// How `update watch` ended: before a decision or the end, and after it.
    pub codes: Vec<i32>,
    /// What `update show` says in the end.
    pub update: Value,
    /// What `events` has of it, in order.
    pub events: Vec<String>,
    /// What each process did and heard, by node and module, the first to do so first.
    pub processes: BTreeMap<String, Vec<Vec<Value>>>,
    /// What is on each node in the end, and whether its processes and its local storage are what they were.
    pub nodes: BTreeMap<String, Value>,
    /// What is installed and what runs on each node while an ephemeral update waits for a user.
    pub unpersisted: Vec<Value>,
}

impl Account {
    /// Where another differs from it.
    pub fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        for ((what, expected), (_, found)) in self.parts().iter().zip(other.parts()) {
            if *expected != found {
                // Writing to a text cannot fail.
                let _ = writeln!(text, "\n{what}: {found}\nwithout a failure: {expected}");
            }
        }
        text
    }

    fn parts(&self) -> [(&'static str, Value); 6] {
        [
            ("exit codes", json!(self.codes)),
            ("update", self.update.clone()),
            ("events", json!(self.events)),
            ("processes", json!(self.processes)),
            ("nodes", json!(self.nodes)),
            ("unpersisted", json!(self.unpersisted)),
        ]
    }
}

fn pick(from: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), from[*field].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn pick_each(from: &Value, fields: &[&str]) -> Value {
    from.as_array().into_iter().flatten().map(|one| pick(one, fields)).collect()
}

/// What `update show` says, without times, pids and numbers that count entries.
pub fn shown(names: &Names, update: &Value) -> Result<Value> {
    let node = |node: &Value| {
        let mut picked = pick(node, &["step", "round", "changed", "failure", "restarted"]);
        picked["ballots"] = pick_each(&node["ballots"], &["process", "answer", "reason", "lapsed", "overruled"]);
        picked
    };
    let nodes = update["nodes"].as_object().context("no nodes")?;
    let decision = |one: &Value| {
        let mut picked = pick(one, &["decision", "why", "nodes", "by"]);
        picked["overruled"] = pick_each(&one["overruled"], &["node", "process"]);
        picked
    };
    let mut picked = pick(update, &["kind", "phase", "outcome", "exit", "submitted_by", "waiting", "reason"]);
    picked["nodes"] = nodes.iter().map(|(name, one)| (name.clone(), node(one))).collect::<serde_json::Map<_, _>>().into();
    picked["decisions"] = update["decisions"].as_array().into_iter().flatten().map(decision).collect();
    picked["vetoes"] = pick_each(&update["vetoes"], &["node", "process", "reason", "lapsed", "overruled"]);
    picked["discrepancies"] = pick_each(&update["discrepancies"], &["node", "module", "needs", "found", "scope", "repaired"]);
    names.plain(&picked)
}

/// What the events tell of an update, each once. In how many waves it went is left out.
pub fn events(names: &Names, printed: &str) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for line in printed.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["update"] != names.update.as_str() {
            continue;
        }
        let text = names.plain(&json!([event["kind"], event["node"], event["text"]]))?.to_string();
        let text = text.replace("is wave 2", "is wave 1");
        if !told.contains(&text) {
            told.push(text);
        }
    }
    Ok(told)
}

/// What each process of a module did and heard of an update, the first to do so first: each thing once, for it may be said again.
/// `before` is how much their log had before it.
pub fn said(names: &Names, log: &[Entry], before: usize) -> Result<Vec<Vec<Value>>> {
    let mut about: BTreeMap<u32, &str> = BTreeMap::new();
    let mut all: Vec<(u32, Vec<Value>)> = Vec::new();
    for entry in log.iter().skip(before) {
        let of = match &entry.said {
            Said::Proposal { proposal } => {
                let update = proposal["update"].as_str().context("a proposal without an update")?;
                about.insert(entry.pid, update);
                update
            }
            Said::Overruled { update, .. }
            | Said::Pending { update }
            | Said::Ready { update }
            | Said::HandOver { update }
            | Said::Resume { update }
            | Said::Done { update }
            | Said::Aborted { update }
            | Said::Outcome { update, .. } => update,
            // It does not say of which.
            Said::Answered { .. } => about.get(&entry.pid).copied().unwrap_or_default(),
            // That its own node's agent is not there is nothing it was told.
            Said::Error { message } if message.contains("process.sock") => continue,
            Said::Started { .. } | Said::Error { .. } => &names.update,
            Said::Listening => continue,
        };
        if of != names.update {
            continue;
        }
        let said = match &entry.said {
            Said::Proposal { proposal } => {
                let packages = pick_each(&proposal["packages"], &["name", "from", "to"]);
                let (role, modules, revision) = (&proposal["role"], &proposal["modules"], &proposal["revision"]);
                json!({ "event": "proposal", "role": role, "modules": modules, "packages": packages, "revision": revision })
            }
            said => serde_json::to_value(said)?,
        };
        let said = names.plain(&said)?;
        match all.iter_mut().find(|(pid, _)| *pid == entry.pid) {
            Some((_, told)) if told.contains(&said) => {}
            Some((_, told)) => told.push(said),
            None => all.push((entry.pid, vec![said])),
        }
    }
    ensure!(!all.is_empty(), "nothing of {} is in the log: {log:#?}", names.update);
    Ok(all.into_iter().map(|(_, told)| told).collect())
}
