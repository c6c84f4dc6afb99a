//! `tribune-simulations`: whole clusters on virtual time, every choice from one seed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use tribune_planted::Bug;
use tribune_simulations::plan::Plan;
use tribune_simulations::run::{Bottle, Outcome, play};
use tribune_simulations::story::Story;
use tribune_simulations::sweep::{Line, hunt, shrink, sweep, table};

/// This program's own `getrandom` and `clock_gettime`. Outside of a run the clock stands still.
const BOTTLE: Bottle =
    Bottle { draw_from: mad_turmoil::rand::set_rng, hold_clock: || Box::new(mad_turmoil::time::SimClocksGuard::init()) };

/// How many events before a violation are shown.
const SHOWN: usize = 60;

/// Whole clusters on virtual time, every choice from one seed.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays one seed.
    Run {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// One line of JSON and nothing else.
        #[arg(long)]
        json: bool,
        /// With this bug planted.
        #[arg(long)]
        plant: Option<Bug>,
        /// Without these of its faults, by their place from 0 on.
        #[arg(long, value_delimiter = ',')]
        without: Vec<usize>,
    },
    /// Plays one seed again, and prints all that happens.
    Replay {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// With this bug planted.
        #[arg(long)]
        plant: Option<Bug>,
        /// Without these of its faults, by their place from 0 on.
        #[arg(long, value_delimiter = ',')]
        without: Vec<usize>,
    },
    /// Tells the story in a file, and prints what came of it.
    Scenario {
        /// Which.
        file: PathBuf,
        /// Prints all that happens instead.
        #[arg(long)]
        all: bool,
        /// With this bug planted.
        #[arg(long)]
        plant: Option<Bug>,
    },
    /// Plays seeds FROM..TO, each in a process of its own.
    Sweep {
        /// Such as 1..1001.
        #[arg(long)]
        seeds: String,
        /// How many at once.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// Prints which states met which faults, and how often.
        #[arg(long)]
        table: bool,
    },
    /// Plants bugs, one after the other, and plays seeds until each is found.
    Hunt {
        /// Which; none: all.
        #[arg(long)]
        bug: Vec<Bug>,
        /// How many seeds each gets.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// How many at once.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
    },
    /// Finds a smaller set of faults with which a seed still fails.
    Shrink {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// With this bug planted.
        #[arg(long)]
        plant: Option<Bug>,
    },
}

fn plan(seed: u64, without: &[usize]) -> Plan {
    let mut plan = Plan::of(seed);
    let kept = plan.faults.into_iter().enumerate().filter(|(at, _)| !without.contains(at)).map(|(_, fault)| fault);
    plan.faults = kept.collect();
    plan
}

fn main() -> ExitCode {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("TRIBUNE_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).without_time().init();
    }
    match act(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { seed, json, plant, without } => {
            plant.into_iter().for_each(tribune_planted::plant);
            let outcome = play(plan(seed, &without), BOTTLE)?;
            if json {
                println!("{}", serde_json::to_string(&Line::from(&outcome))?);
            } else {
                show(&outcome, SHOWN, &without);
            }
            Ok(code(outcome.violation.is_none()))
        }
        Command::Replay { seed, plant, without } => {
            plant.into_iter().for_each(tribune_planted::plant);
            let outcome = play(plan(seed, &without), BOTTLE)?;
            show(&outcome, usize::MAX, &without);
            Ok(code(outcome.violation.is_none()))
        }
        Command::Scenario { file, all, plant } => {
            plant.into_iter().for_each(tribune_planted::plant);
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let story: Story = text.parse().map_err(|why| anyhow!("{}: {why}", file.display()))?;
            let outcome = play(Plan::telling(story), BOTTLE)?;
            if all {
                show(&outcome, usize::MAX, &[]);
            } else {
                outcome.transcript.iter().for_each(|line| println!("{line}"));
                if let Some(violation) = &outcome.violation {
                    println!(
                        "violated: {} — {}\nat {:?}: {}",
                        violation.invariant, violation.sentence, violation.at, violation.what
                    );
                }
            }
            Ok(code(outcome.violation.is_none()))
        }
        Command::Sweep { seeds, jobs, table: with_table } => {
            let (from, to) = seeds.split_once("..").ok_or_else(|| anyhow!("{seeds:?} are no seeds; give them as 1..1001"))?;
            let began = uptime();
            let lines = sweep(from.parse()?..to.parse()?, jobs, None, |line| {
                if let Some((invariant, what)) = &line.violation {
                    println!("seed {}: {invariant}: {what}", line.seed);
                }
            })?;
            let bad = lines.iter().filter(|line| line.violation.is_some()).count();
            let minutes = (uptime() - began) / 60.0;
            let hours: f64 = lines.iter().map(|line| line.virtual_seconds).sum::<f64>() / 3600.0;
            let updates: usize = lines.iter().map(|line| line.updates).sum();
            if with_table {
                println!("{}", table(&lines));
            }
            println!(
                "{} seeds, {bad} with a violation; {updates} updates; {:.1} virtual hours in {minutes:.1} minutes: {:.1} virtual hours and {:.1} seeds a minute",
                lines.len(),
                hours,
                hours / minutes.max(0.001),
                lines.len() as f64 / minutes.max(0.001),
            );
            Ok(code(bad == 0))
        }
        Command::Hunt { bug, seeds, jobs } => {
            let bugs = if bug.is_empty() { Bug::ALL.to_vec() } else { bug };
            println!("| planted bug | what it does | found by | seed |\n| --- | --- | --- | --- |");
            let mut all = true;
            for bug in bugs {
                let found = hunt(bug, seeds, jobs)?;
                all &= found.is_some();
                let (by, seed) = found.unwrap_or_else(|| ("**not found**".into(), format!("none of {seeds}")));
                println!("| {} | {} | {by} | {seed} |", bug.name(), bug.does());
            }
            Ok(code(all))
        }
        Command::Shrink { seed, plant } => {
            let smaller = shrink(seed, plant)?;
            for fault in &smaller.faults {
                println!("fault: {fault}");
            }
            let without: Vec<String> = smaller.without.iter().map(ToString::to_string).collect();
            println!("{} of {} faults are enough:", smaller.faults.len(), smaller.faults.len() + without.len());
            println!("cargo run -p tribune-simulations -- replay --seed {seed} --without {}", without.join(","));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds since the machine was started: this program's own clock is the simulation's.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn show(outcome: &Outcome, most: usize, without: &[usize]) {
    let events = &outcome.events;
    for event in &events[events.len().saturating_sub(most)..] {
        println!("{event}");
    }
    println!("\nseed {}: {} nodes, {} users", outcome.plan.seed, outcome.plan.nodes, outcome.plan.users);
    for (at, fault) in outcome.plan.faults.iter().enumerate() {
        println!("  fault {at}: {fault}");
    }
    println!("trace {}", outcome.hash);
    println!("{} updates in {:?} of virtual time", outcome.updates, outcome.virtual_time);
    match &outcome.violation {
        None => println!("everything held"),
        Some(violation) => {
            println!("\nviolated: {} — {}", violation.invariant, violation.sentence);
            println!("at {:?}: {}", violation.at, violation.what);
            let list: Vec<String> = without.iter().map(ToString::to_string).collect();
            let without = if list.is_empty() { String::new() } else { format!(" --without {}", list.join(",")) };
            println!("replay with: cargo run -p tribune-simulations -- replay --seed {}{without}", outcome.plan.seed);
        }
    }
}
