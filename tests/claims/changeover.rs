//! What the processes on a node see of a changeover: the same of an update that is kept and of one that is not.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tribune_tests::probe::{Entry, Said};
use tribune_tests::{Node, PackageSource, eventually};

use crate::when;

/// The modules of [`source`].
const MODULES: [&str; 4] = ["p/m", "p/told", "p/restarted", "p/bystander"];

/// A module, one that depends on it and is told of changes, one that is restarted with them, and one that has nothing to do with it.
pub(crate) fn source(version: &str) -> PackageSource {
    PackageSource::new("p", version)
        .probe("m", version, "")
        .probe("told", "same", "depends-on = [\"m\"]")
        .probe("restarted", "same", "depends-on = [\"m\"]\nwhen-affected = \"restart\"")
        .probe("bystander", "same", "")
}

/// The processes of the modules of [`source`].
pub(crate) fn pids(node: &Node) -> Result<[Option<u32>; 4]> {
    let mut pids = [None; 4];
    for (pid, module) in pids.iter_mut().zip(MODULES) {
        *pid = node.pid(module)?;
    }
    Ok(pids)
}

/// That an update to `version` went on in order for the processes that ran before: each comes to its safe point before anything
/// starts, and whoever goes on is told afterwards that it has occurred. Whoever is replaced or restarted hands over instead.
pub(crate) fn went_in_order(node: &Node, update: &str, version: &str, before: [Option<u32>; 4]) -> Result<()> {
    let at = |module: &str, event: &str| {
        when(&node.log(module), &format!("{event} of {module}"), |said| match said {
            Said::Started { version: v, .. } => event == "start" && v == version,
            other => about(other).is_some_and(|(u, what)| u == update && what == event),
        })
    };
    let started = at("p/m", "start")?;
    for module in ["p/m", "p/told", "p/restarted"] {
        let (pending, ready) = (at(module, "pending")?, at(module, "ready")?);
        ensure!(pending < ready && ready < started, "{module}: pending {pending}, ready {ready}, started {started}");
    }
    let done = at("p/told", "done")?;
    ensure!(started < done, "it had occurred at {done}, before the start at {started}");
    let restarted = at("p/restarted", "start")?;
    ensure!(started < restarted, "p/restarted was restarted at {restarted}, before the start at {started}");

    let after = pids(node)?;
    ensure!(before.iter().chain(&after).all(Option::is_some), "all run: {before:?}, {after:?}");
    let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    let as_it_should = "replaced and restarted are new, told and bystander are not";
    ensure!(same == [false, true, false, true], "{as_it_should}: {before:?}, {after:?}");
    Ok(())
}

/// That the processes that ran before an update heard all of it that concerns them and how it ended, and nobody heard anything else.
pub(crate) fn all_heard(node: &Node, update: &str, outcome: &str, before: [Option<u32>; 4]) -> Result<()> {
    eventually("whoever is there has heard of the end", || {
        let local = node.json(&["local", "show"])?;
        Ok((local["open"] == serde_json::json!({})).then_some(()))
    })?;
    let changeover = ["proposal", "pending", "ready"];
    let ends = [&changeover[..], &["hand-over"]].concat();
    let goes_on = [&changeover[..], &["done", outcome]].concat();
    for (module, (pid, expected)) in MODULES.iter().zip(before.into_iter().zip([&ends[..], &goes_on, &ends, &[]])) {
        let expected = expected.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected: BTreeMap<_, _> = pid.filter(|_| !expected.is_empty()).map(|pid| (pid, expected)).into_iter().collect();
        let heard = heard(&node.log(module), update);
        ensure!(heard == expected, "{module} heard {heard:?}, expected {expected:?}");
    }
    Ok(())
}

/// What each process of a module heard of an update and said to it, in order.
fn heard(log: &[Entry], update: &str) -> BTreeMap<u32, Vec<String>> {
    let mut heard = BTreeMap::<u32, Vec<String>>::new();
    for entry in log {
        if let Some((of, what)) = about(&entry.said)
            && of == update
        {
            heard.entry(entry.pid).or_default().push(what.to_owned());
        }
    }
    heard
}

/// Which update an entry is about, and what is said of it.
fn about(said: &Said) -> Option<(&str, &str)> {
    match said {
        Said::Proposal { proposal } => Some((proposal["update"].as_str()?, "proposal")),
        Said::Overruled { update, .. } => Some((update, "overruled")),
        Said::Pending { update } => Some((update, "pending")),
        Said::Ready { update } => Some((update, "ready")),
        Said::HandOver { update } => Some((update, "hand-over")),
        Said::Resume { update } => Some((update, "resume")),
        Said::Done { update } => Some((update, "done")),
        Said::Aborted { update } => Some((update, "aborted")),
        Said::Outcome { update, outcome } => Some((update, outcome)),
        Said::Started { .. } | Said::Listening | Said::Answered { .. } | Said::Error { .. } => None,
    }
}
