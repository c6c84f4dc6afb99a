//! What a node writes to its local storage, and in which order things happen there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, PackageSource};

use crate::{install, when};

/// Inode and time of each module's file, and the modules' pids.
type Look = (BTreeMap<String, (u64, i64, i64)>, Vec<Option<u32>>);

#[test]
fn claim_13_only_the_module_that_differs_is_replaced() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = |version: &str| {
        let mut source = PackageSource::new("ten", version);
        for number in 0..10 {
            let content = if number == 7 { format!("seven {version}") } else { format!("module {number}") };
            source = source.probe(&format!("m{number}"), &content, "");
        }
        source
    };
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let look = || -> Result<Look> {
        let mut files = BTreeMap::new();
        let mut left = vec![node.data.join("local/modules")];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let about = fs::symlink_metadata(&path)?;
                if about.is_dir() {
                    left.push(path);
                } else {
                    files.insert(path.display().to_string(), (about.ino(), about.mtime(), about.mtime_nsec()));
                }
            }
        }
        let pids = (0..10).map(|number| node.pid(&format!("ten/m{number}"))).collect::<Result<_>>()?;
        Ok((files, pids))
    };
    let (files, pids) = look()?;
    ensure!(files.len() == 10 && pids.iter().all(Option::is_some), "{files:?} {pids:?}");
    install(&cluster, &source("1.1.0"), &["n1"])?;
    let (new_files, new_pids) = look()?;
    for (file, before) in &files {
        ensure!(new_files.get(file) == Some(before), "{file} was written again");
    }
    ensure!(new_files.len() == 11, "one module was written: {new_files:?}");
    for (number, (old, new)) in pids.iter().zip(&new_pids).enumerate() {
        ensure!((old == new) == (number != 7) && new.is_some(), "module {number}: pid {old:?} then {new:?}");
    }
    Ok(())
}

#[test]
fn claim_14_pending_then_ready_then_started_then_done_and_a_node_restart_starts_the_new_version() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let source = |version: &str| {
        PackageSource::new("p", version).probe("m", version, "").probe("dependant", "same", "depends-on = [\"m\"]")
    };
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let update = install(&cluster, &source("2.0.0"), &["n1"])?;
    let node = cluster.node_mut("n1");
    let (module, dependant) = (node.log("p/m"), node.log("p/dependant"));
    let mine = |said: &Said, event: &str| match said {
        Said::Pending { update: u } => event == "pending" && *u == update,
        Said::Ready { update: u } => event == "ready" && *u == update,
        Said::Done { update: u } => event == "done" && *u == update,
        _ => false,
    };
    let at = |log, event: &'static str| when(log, event, |said| mine(said, event));
    let started =
        when(&module, "the new version's start", |said| matches!(said, Said::Started { version, .. } if version == "2.0.0"))?;
    let pending = at(&module, "pending")?.max(at(&dependant, "pending")?);
    let ready = [at(&module, "ready")?, at(&dependant, "ready")?];
    let done = at(&dependant, "done")?;
    let order = ready.iter().all(|ready| *ready < started) && started < done && pending < started;
    ensure!(order, "pending {pending}, ready {ready:?}, started {started}, done {done}");

    node.kill_all()?;
    node.run()?;
    let shown = tribune_tests::eventually("the module runs again", || node.pid("p/m"))?;
    let log = node.log("p/m");
    let last = log.iter().rev().find(|entry| entry.pid == shown && matches!(entry.said, Said::Started { .. }));
    let version =
        last.and_then(|entry| if let Said::Started { version, .. } = &entry.said { Some(version.clone()) } else { None });
    ensure!(version.context("it has not said that it started")? == "2.0.0", "an old version was started");
    Ok(())
}
