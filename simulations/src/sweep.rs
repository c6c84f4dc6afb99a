//! Many runs: a process for each seed, some at a time, and what they came to together.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tribune_planted::Bug;

use crate::faults::{Fault, STEPS};
use crate::plan::Plan;
use crate::run::Outcome;

/// What a run came to, as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub seed: u64,
    pub hash: String,
    /// The invariant, and what is wrong.
    pub violation: Option<(String, String)>,
    pub virtual_seconds: f64,
    pub updates: usize,
    /// By state and fault: how often they met.
    pub met: Vec<(String, String, u64)>,
}

/// A run takes a second or two. One that takes so long does not come to its end: whoever waits in place for what only time can bring stops time.
const STANDS_STILL: Duration = Duration::from_secs(600);

impl Line {
    /// A run that said nothing of itself.
    fn failed(seed: u64, what: &str, why: String) -> Self {
        let (hash, met) = (String::new(), Vec::new());
        Self { seed, hash, violation: Some((what.to_owned(), why)), virtual_seconds: 0.0, updates: 0, met }
    }
}

impl From<&Outcome> for Line {
    fn from(outcome: &Outcome) -> Self {
        Self {
            seed: outcome.plan.seed,
            hash: outcome.hash.to_string(),
            violation: outcome.violation.as_ref().map(|violation| (violation.invariant.to_owned(), violation.what.clone())),
            virtual_seconds: outcome.virtual_time.as_secs_f64(),
            updates: outcome.updates,
            met: outcome.met.iter().map(|((state, fault), count)| (state.clone(), (*fault).to_owned(), *count)).collect(),
        }
    }
}

/// Runs seeds, each in a process of its own.
///
/// # Errors
/// A run could not be started.
pub fn sweep(seeds: Range<u64>, jobs: u64, plant: Option<Bug>, each: impl FnMut(&Line) + Send) -> Result<Vec<Line>> {
    sweep_with(&std::env::current_exe().context("finding this program")?, seeds, jobs, plant, each)
}

/// The same, with this program.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_with(
    program: &Path,
    seeds: Range<u64>,
    jobs: u64,
    plant: Option<Bug>,
    mut each: impl FnMut(&Line) + Send,
) -> Result<Vec<Line>> {
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(seeds.start);
    let lines = Mutex::new(Vec::new());
    let each = Mutex::new(&mut each);
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..jobs.max(1) {
            workers.push(scope.spawn(|| -> Result<()> {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let line = one(program, seed, &[], plant)?;
                    // With a bug planted the first that finds it is enough.
                    stop.fetch_or(plant.is_some() && line.violation.is_some(), Ordering::Relaxed);
                    if let (Ok(mut each), Ok(mut lines)) = (each.lock(), lines.lock()) {
                        each(&line);
                        lines.push(line);
                    }
                }
            }));
        }
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort_by_key(|line| line.seed);
    Ok(lines)
}

/// Runs one seed in a process of its own.
///
/// # Errors
/// It could not be started.
pub fn one(program: &Path, seed: u64, without: &[usize], plant: Option<Bug>) -> Result<Line> {
    let mut command = Command::new(program);
    command.args(["run", "--seed", &seed.to_string(), "--json"]);
    if !without.is_empty() {
        command.args(["--without", &without.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")]);
    }
    if let Some(bug) = plant {
        command.args(["--plant", bug.name()]);
    }
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting a run")?;
    let (stdout, stderr) = (reading(run.stdout.take()), reading(run.stderr.take()));
    let ends = ends_within(&run, STANDS_STILL).context("waiting for a run")?;
    if !ends {
        run.kill().context("ending a run that stands still")?;
    }
    let status = run.wait().context("waiting for a run")?;
    let (said, complained) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if !ends {
        return Ok(Line::failed(
            seed,
            "stands-still",
            format!("it was not over after {STANDS_STILL:?}: something does not let time go on"),
        ));
    }
    let parsed = said.lines().last().and_then(|line| serde_json::from_str::<Line>(line).ok());
    Ok(parsed.unwrap_or_else(|| {
        let why = complained.lines().next().unwrap_or("nothing");
        Line::failed(seed, "crash", format!("the run ended with {status} and said: {why}"))
    }))
}

/// Whether a run ends in a time. No clock is read for it: this program's own stands still outside of a run.
fn ends_within(run: &Child, time: Duration) -> rustix::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(run), PidfdFlags::empty())?;
    let time = Timespec::try_from(time).map_err(|_| rustix::io::Errno::INVAL)?;
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time))? > 0)
}

/// Reads all that a run says, beside it.
fn reading(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What came before it broke off is enough.
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Plays seeds with a bug planted until one finds it: by which invariant, and which seed.
///
/// # Errors
/// A run could not be started.
pub fn hunt(bug: Bug, seeds: u64, jobs: u64) -> Result<Option<(String, String)>> {
    let lines = sweep(1..seeds + 1, jobs, Some(bug), |_| {})?;
    let found = lines.into_iter().find_map(|line| line.violation.map(|(invariant, _)| (invariant, line.seed.to_string())));
    Ok(found)
}

/// A run with fewer faults.
#[derive(Debug)]
pub struct Smaller {
    pub faults: Vec<String>,
    /// The places of the faults that are left out.
    pub without: Vec<usize>,
}

/// Leaves out one fault after the other, for as long as the same invariant is violated.
///
/// # Errors
/// The seed violates nothing, or a run could not be started.
pub fn shrink(seed: u64, plant: Option<Bug>) -> Result<Smaller> {
    let program = std::env::current_exe().context("finding this program")?;
    let whole = one(&program, seed, &[], plant)?;
    let Some((invariant, _)) = whole.violation else { bail!("seed {seed} violates nothing") };
    let planned = Plan::of(seed).faults;
    let mut without: Vec<usize> = Vec::new();
    for at in 0..planned.len() {
        let mut tried = without.clone();
        tried.push(at);
        let line = one(&program, seed, &tried, plant)?;
        if line.violation.is_some_and(|(again, _)| again == invariant) {
            without = tried;
        }
    }
    let kept = planned.iter().enumerate().filter(|(at, _)| !without.contains(at));
    Ok(Smaller { faults: kept.map(|(_, fault)| fault.to_string()).collect(), without })
}

/// The table of which steps met which faults, and how often. What a fault itself makes of a node, *away* or *failed*, is no step that one is
/// aimed at.
pub fn table(lines: &[Line]) -> String {
    let mut met: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for line in lines {
        for (state, fault, count) in line.met.iter().filter(|(state, ..)| STEPS.contains(&state.as_str())) {
            *met.entry(state).or_default().entry(fault).or_default() += count;
        }
    }
    let kinds = [Fault::KINDS.as_slice(), &Fault::LOSSES].concat();
    let mut table = format!("| step | {} |\n| --- |{}\n", kinds.join(" | "), " --- |".repeat(kinds.len()));
    for (state, faults) in met {
        let counts: Vec<String> = kinds.iter().map(|kind| faults.get(kind).copied().unwrap_or(0).to_string()).collect();
        table.push_str(&format!("| {state} | {} |\n", counts.join(" | ")));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_end_is_told_from_one_that_does() -> Result<()> {
        let mut endless = Command::new("sleep").arg("1000000").spawn()?;
        let ended = ends_within(&endless, Duration::from_millis(50));
        endless.kill()?;
        assert!(!ended?);
        assert!(ends_within(&endless, Duration::from_secs(60))?, "killed, and not waited for yet");
        endless.wait()?;
        Ok(())
    }
}
