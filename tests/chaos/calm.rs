//! What comes after a storm: with nothing broken any more, the cluster finds to itself in a stated time, and everything holds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::apart::{release_all, stays_until_it_is_released};
use crate::checks::Evidence;
use crate::software::CHAIN;
use crate::users::all_accept;
use crate::world::World;

/// How soon there is a master.
const MASTER_WITHIN: Duration = Duration::from_secs(30);
/// How soon every node is in session, and the voters are as many as they should be.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
/// How soon one more update ends that does not wait for a user, or another update, any more.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
/// How soon an update of all nodes is completed.
const COMPLETED_WITHIN: Duration = Duration::from_secs(60);
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much is written down of what is waited for.
const MOST_SAID: usize = 300;
const PAUSE: Duration = Duration::from_millis(500);
/// What is not so at one moment, since the cluster brings nodes up to date by itself, is so at one of these.
const LOOKS: usize = 10;

const HAS_MASTER: &str = "when faults end there is a master within 30 s";
const IS_WHOLE: &str = "when faults end every node is there within 90 s, and the voters are made";
const FRESH_UPDATE: &str = "when faults end an update of all nodes completes within 60 s";
const NO_DISCREPANCY: &str = "when faults end no need is left unmet";
const APART: &str = "a node that went back by itself stays as it is until it is released";
const ALL_END: &str = "when faults end one update after another ends, each within 120 s, and everybody hears how";
const HOLDS: &str = "in a calm everything holds";

/// What has to be so, and the sentence that says it.
type Step<'s> = (&'static str, &'s dyn Fn(&mut Evidence<'_>) -> Result<()>);

/// Waits for all of it, and looks at what must hold; what does not is written down.
pub fn calm(evidence: &mut Evidence<'_>, voters: usize) {
    let whole = |evidence: &mut Evidence<'_>| is_whole(evidence, voters);
    // The update of all nodes has left its marks as well.
    let steps: [Step<'_>; 9] = [
        (HAS_MASTER, &has_master),
        (IS_WHOLE, &whole),
        (ALL_END, &all_end),
        (HOLDS, &holds),
        (APART, &stays_until_it_is_released),
        (FRESH_UPDATE, &fresh_update),
        (NO_DISCREPANCY, &no_discrepancy),
        (ALL_END, &all_end),
        (HOLDS, &holds),
    ];
    take(evidence, &steps);
}

/// The same when nobody has asked for anything since the calm before: what an update of all nodes leaves is looked at.
pub fn after_a_disaster(evidence: &mut Evidence<'_>, voters: usize) {
    let whole = |evidence: &mut Evidence<'_>| is_whole(evidence, voters);
    let steps: [Step<'_>; 6] = [
        (IS_WHOLE, &whole),
        (ALL_END, &all_end),
        (FRESH_UPDATE, &fresh_update),
        (NO_DISCREPANCY, &no_discrepancy),
        (ALL_END, &all_end),
        (HOLDS, &holds),
    ];
    take(evidence, &steps);
}

fn take(evidence: &mut Evidence<'_>, steps: &[Step<'_>]) {
    for (sentence, step) in steps {
        if evidence.world.violation().is_some() {
            return;
        }
        let begun = Instant::now();
        match step(evidence) {
            Ok(()) => evidence.world.chronicle.note(format!("{sentence}: after {:?}", begun.elapsed())),
            Err(error) => evidence.world.violated(sentence, format!("{error:#}")),
        }
    }
}

/// Looks until it is so, at most so long; writes down what it waits for.
pub fn within(world: &World, limit: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    let mut last = String::new();
    loop {
        let Err(error) = look() else { return Ok(()) };
        if begun.elapsed() > limit {
            return Err(error);
        }
        let now: String = format!("{error:#}").chars().take(MOST_SAID).collect();
        if now != last {
            world.chronicle.note(format!("not yet: {now}"));
            last = now;
        }
        std::thread::sleep(PAUSE);
    }
}

fn has_master(evidence: &mut Evidence<'_>) -> Result<()> {
    let world = evidence.world;
    within(world, MASTER_WITHIN, || world.ask_any(0, &["node", "list"], Duration::from_secs(2)).map(drop))
}

fn is_whole(evidence: &mut Evidence<'_>, voters: usize) -> Result<()> {
    let world = evidence.world;
    within(world, WHOLE_WITHIN, || {
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
    all_accept(evidence.world)?;
    let mut open = usize::MAX;
    // One that waits for others has its time once they have ended.
    while open > 0 {
        within(evidence.world, ENDED_WITHIN, || {
            let (count, said) = still_open(evidence)?;
            ensure!(count < open, "{said}");
            open = count;
            Ok(())
        })?;
    }
    Ok(())
}

/// How many updates are open, anywhere; and how they are. Those that wait for a user are called off.
fn still_open(evidence: &Evidence<'_>) -> Result<(usize, String)> {
    let world = evidence.world;
    let list = world.ask_any(0, &["update", "list", "-n", "2000"], PATIENCE)?;
    let items = list["items"].as_array().context("no items")?;
    let mut said = Vec::new();
    for item in items.iter().filter(|item| item["phase"] != "ended") {
        let update = item["update"].as_str().context("no number")?;
        let shown = world.ask_any(0, &["update", "show", update], PATIENCE)?;
        if shown["exit"].is_u64() && shown["phase"] != "ended" {
            decide(evidence, update, &shown)?;
        }
        said.push(format!("{update} is {}: {}", shown["phase"], shown["waiting"]));
    }
    for node in 0..world.nodes.len() {
        let local = world.ask(node, &["local", "show"], PATIENCE)?;
        if local["open"].as_object().is_none_or(|open| !open.is_empty()) {
            said.push(format!("on {} is open {}", world.nodes[node].name, local["open"]));
        }
    }
    Ok((said.len(), said.join("; ")))
}

/// An update that still waits for a user: it is called off.
fn decide(evidence: &Evidence<'_>, update: &str, shown: &Value) -> Result<()> {
    let output = evidence.world.admin(0, &["update", "cancel", update], PATIENCE)?;
    evidence.world.chronicle.note(format!("{update}, which is {}, is called off: {}", shown["phase"], output.code));
    Ok(())
}

/// What must hold, at one of some moments.
fn holds(evidence: &mut Evidence<'_>) -> Result<()> {
    for look in 1.. {
        let first = look % evidence.world.nodes.len();
        let looked = evidence.look_always(first).map_err(|error| ("the cluster answers", error));
        let looked = looked.and_then(|()| evidence.look_in_a_calm());
        let Err((sentence, error)) = looked else { break };
        evidence.world.chronicle.note(format!("not yet: {sentence}: {error:#}"));
        if evidence.world.violation().is_some() {
            break;
        }
        if look == LOOKS {
            evidence.world.violated(sentence, format!("{error:#}"));
            break;
        }
        std::thread::sleep(2 * PAUSE);
        // The cluster may be bringing a node up to date just now.
        all_end(evidence)?;
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
    // A node that a backup knows nothing of, or something else of, may be apart.
    let update = match evidence.told.submit(world, 1, &args)? {
        Some(update) => update,
        None => {
            release_all(evidence)?;
            evidence.told.submit(world, 1, &args)?.context("it was refused")?
        }
    };
    within(world, COMPLETED_WITHIN, || {
        let shown = world.ask_any(0, &["update", "show", &update], PATIENCE)?;
        ensure!(shown["outcome"] == "completed", "{update} is {}: {}{}", shown["phase"], shown["waiting"], shown["reason"]);
        Ok(())
    })
}

fn no_discrepancy(evidence: &mut Evidence<'_>) -> Result<()> {
    evidence.world.try_ask(2, &["check"], PATIENCE)?.expect(0).map(drop)
}
