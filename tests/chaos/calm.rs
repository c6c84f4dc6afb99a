//! What comes after a storm: with nothing broken any more, the cluster finds to itself in a stated time, and everything holds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checks::Evidence;
use crate::software::CHAIN;
use crate::users::all_accept;

/// How soon there is a master.
const MASTER_WITHIN: Duration = Duration::from_secs(30);
/// How soon every node is in session, and the voters are as many as they should be.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
/// How soon every update ends that does not wait for a user, and the others when the user has decided.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
/// How soon an update of all nodes is completed.
const COMPLETED_WITHIN: Duration = Duration::from_secs(60);
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);
/// What is not so at one moment, since the cluster brings nodes up to date by itself, is so at one of these.
const LOOKS: u32 = 10;

/// What has to be so, and the sentence that says it.
type Step<'s> = (&'static str, &'s dyn Fn(&mut Evidence<'_>) -> Result<()>);

/// Waits for all of it, and looks at what must hold; what does not is written down.
pub fn calm(evidence: &mut Evidence<'_>, voters: usize) {
    let steps: [Step<'_>; 6] = [
        ("when faults end there is a master within 30 s", &has_master),
        ("when faults end every node is there within 90 s, and the voters are made", &|evidence| is_whole(evidence, voters)),
        ("when faults end every update ends within 120 s", &all_end),
        ("", &holds),
        ("when faults end an update of all nodes completes within 60 s", &fresh_update),
        ("when faults end no need is left unmet", &no_discrepancy),
    ];
    for (sentence, step) in steps {
        if evidence.world.broken().is_some() {
            return;
        }
        let begun = Instant::now();
        match step(evidence) {
            Ok(()) if sentence.is_empty() => {}
            Ok(()) => evidence.world.chronicle.note(format!("{sentence}: after {:?}", begun.elapsed())),
            Err(error) => evidence.world.is_broken(sentence, format!("{error:#}")),
        }
    }
    // The update of all nodes has left its marks as well.
    if evidence.world.broken().is_none() {
        let _ = all_end(evidence).and_then(|()| holds(evidence));
    }
}

/// Looks until it is so, at most so long.
fn within(limit: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = look() else { return Ok(()) };
        if begun.elapsed() > limit {
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
}

fn has_master(evidence: &mut Evidence<'_>) -> Result<()> {
    let world = evidence.world;
    within(MASTER_WITHIN, || world.ask_any(0, &["node", "list"], Duration::from_secs(2)).map(drop))
}

fn is_whole(evidence: &mut Evidence<'_>, voters: usize) -> Result<()> {
    let world = evidence.world;
    within(WHOLE_WITHIN, || {
        let list = world.ask_any(0, &["node", "list"], PATIENCE)?;
        let nodes = list["items"].as_array().context("no items")?;
        let away: Vec<&Value> = nodes.iter().filter(|node| node["connected"] != true).map(|node| &node["name"]).collect();
        ensure!(away.is_empty(), "{away:?} are away");
        let made = nodes.iter().filter(|node| node["role"] == "voter").count();
        ensure!(made == voters, "{made} voters, not {voters}");
        for node in 0..world.nodes.len() {
            let status = world.ask(node, &["status"], PATIENCE)?;
            ensure!(status["master"].is_string() && status["problems"] == serde_json::json!([]), "{status}");
        }
        Ok(())
    })
}

/// Every update has ended, and every process was told so.
fn all_end(evidence: &mut Evidence<'_>) -> Result<()> {
    let world = evidence.world;
    all_accept(world);
    within(ENDED_WITHIN, || {
        let list = world.ask_any(0, &["update", "list", "-n", "2000"], PATIENCE)?;
        let items = list["items"].as_array().context("no items")?;
        let open: Vec<String> = items
            .iter()
            .filter(|item| item["phase"] != "ended")
            .filter_map(|item| item["update"].as_str().map(Into::into))
            .collect();
        let mut said = Vec::new();
        for update in &open {
            let shown = world.ask_any(0, &["update", "show", update], PATIENCE)?;
            if shown["exit"].is_u64() && shown["phase"] != "ended" {
                decide(evidence, update, &shown)?;
            }
            said.push(format!("{update} is {}: {}", shown["phase"], shown["waiting"]));
        }
        ensure!(open.is_empty(), "{}", said.join("; "));
        for node in 0..world.nodes.len() {
            let local = world.ask(node, &["local", "show"], PATIENCE)?;
            let is_open = local["open"].as_object().is_none_or(|open| !open.is_empty());
            ensure!(!is_open, "on {} is open {}", world.nodes[node].name, local["open"]);
        }
        Ok(())
    })
}

/// An update that still waits for a user: it is called off.
fn decide(evidence: &Evidence<'_>, update: &str, shown: &Value) -> Result<()> {
    let output = evidence.world.admin(0, &["update", "cancel", update], PATIENCE)?;
    evidence.world.chronicle.note(format!("{update}, which is {}, is called off: {}", shown["phase"], output.code));
    Ok(())
}

/// What must hold, at one of some moments.
fn holds(evidence: &mut Evidence<'_>) -> Result<()> {
    let mut last = None;
    for look in 0..LOOKS {
        let first = look as usize % evidence.world.nodes.len();
        last = if evidence.look_always(first) {
            evidence.look_in_a_calm().err()
        } else {
            Some(("the cluster answers", anyhow::anyhow!("no")))
        };
        if last.is_none() || evidence.world.broken().is_some() {
            return Ok(());
        }
        std::thread::sleep(2 * PAUSE);
        // The cluster may be bringing a node up to date just now.
        all_end(evidence)?;
    }
    if let Some((sentence, error)) = last {
        evidence.world.is_broken(sentence, format!("{error:#}"));
    }
    Ok(())
}

fn fresh_update(evidence: &mut Evidence<'_>) -> Result<()> {
    let world = evidence.world;
    let version = evidence.told.fresh_version();
    let mut args: Vec<String> = ["update", "submit", "--strategy", "together"].map(Into::into).to_vec();
    for (package, ..) in CHAIN {
        let file = world.software.build(package, &version)?.display().to_string();
        world.admin(0, &["package", "publish", &file], PATIENCE)?.expect(0)?;
        evidence.told.has_published(package, &version);
        args.extend(["--package".into(), format!("{package}@{version}")]);
    }
    for node in &world.nodes {
        args.extend(["--node".into(), node.name.clone()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let update = evidence.told.submit(world, 1, &args)?.context("it was refused")?;
    within(COMPLETED_WITHIN, || {
        let shown = world.ask_any(0, &["update", "show", &update], PATIENCE)?;
        ensure!(shown["outcome"] == "completed", "{shown}");
        Ok(())
    })
}

fn no_discrepancy(evidence: &mut Evidence<'_>) -> Result<()> {
    evidence.world.try_ask(2, &["check"], PATIENCE)?.expect(0).map(drop)
}
