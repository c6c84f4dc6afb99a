//! What a run leaves: its figures, and when something did not hold, all that is needed to see why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::checks::Evidence;
use crate::chronicle::{Count, say};
use crate::settings::Settings;
use crate::world::{Violation, World};

/// Prints the figures of a run.
pub fn figures(evidence: &Evidence<'_>, storms: u32, without_master: Duration) {
    let world = evidence.world;
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for update in evidence.record.updates.values() {
        let outcome = update["outcome"].as_str().or(update["phase"].as_str()).unwrap_or_default();
        *outcomes.entry(outcome.replace('_', " ")).or_default() += 1;
    }
    for (outcome, count) in outcomes {
        world.chronicle.set(Count::Updates, outcome, count);
    }
    say(&format!("storms: {storms}"));
    say(&format!("updates: {}", world.chronicle.counted(Count::Updates)));
    say(&format!("submissions: {}", world.chronicle.counted(Count::Answers)));
    say(&format!("orders: {}", world.chronicle.counted(Count::Orders)));
    say(&format!("faults: {}", world.chronicle.counted(Count::Faults)));
    say(&format!("processes that were started: {}", evidence.heard.said.len()));
    say(&format!("longest time in which not most nodes followed one master: {:.1} s", without_master.as_secs_f64()));
}

/// Prints what did not hold and how it came to that; keeps the logs.
pub fn violation(evidence: &Evidence<'_>, violation: &Violation, settings: &Settings) -> Result<()> {
    let kept = keep(evidence.world)?;
    let updates: Vec<String> = evidence.record.updates.values().map(ToString::to_string).collect();
    fs::write(kept.join("updates.jsonl"), updates.join("\n"))?;
    for line in evidence.world.chronicle.lines() {
        say(&line);
    }
    say(&format!("\nDOES NOT HOLD: {}\n{}\n", violation.sentence, violation.seen));
    say(&format!("the logs of nodes and processes: {}", kept.display()));
    say(&format!("the same faults and users again: {}", settings.again()));
    Ok(())
}

/// Copies what was written to a folder that stays.
fn keep(world: &World) -> Result<PathBuf> {
    let kept = tempfile::Builder::new().prefix("tribune-chaos-").tempdir()?.keep();
    let folder = world.folder();
    copy(&folder.join("chronicle"), &kept.join("chronicle"))?;
    copy(world.software.logs(), &kept.join("heard"))?;
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if let Some(name) = file.file_name().filter(|_| file.extension().is_some_and(|ending| ending == "log")) {
            copy(&file, &kept.join(name))?;
        }
    }
    for node in &world.nodes {
        copy(&node.data.join("logs"), &kept.join(format!("{}-modules", node.name)))?;
        copy(&node.data.join("local"), &kept.join(format!("{}-local", node.name)))?;
        copy(&node.data.join("cluster.json"), &kept.join(format!("{}-cluster.json", node.name)))?;
        for (what, args) in [("status", &["status"][..]), ("local", &["local", "show"]), ("processes", &["process", "list"])] {
            let said = world.try_ask(world.number(&node.name).unwrap_or(0), args, Duration::from_secs(3))?;
            fs::write(kept.join(format!("{}-{what}.json", node.name)), said.stdout + &said.stderr)?;
        }
    }
    for (what, args) in [("events", &["events", "-n", "10000"][..]), ("nodes", &["node", "list"])] {
        let said = world.try_ask(0, args, Duration::from_secs(3))?;
        fs::write(kept.join(format!("{what}.json")), said.stdout + &said.stderr)?;
    }
    Ok(kept)
}

/// Copies a file or a folder, if it is there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.is_file() {
        // A file may go while a folder is copied.
        let _ = fs::copy(from, to).with_context(|| format!("copying {}", from.display()));
    }
    Ok(())
}
