//! The users: each asks for one change after another, at any node, and decides when a process objects.
//!
//! One idea: a user does not know what is broken, and does what anybody would who looks at an update now and then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::chronicle::Count;
use crate::random::Random;
use crate::software::{BROKEN, BYSTANDER, CHAIN, VERSIONS};
use crate::told::{PATIENCE, Told};
use crate::world::World;

/// How long for an update before turning to the next.
const UPDATE_PATIENCE: Duration = Duration::from_secs(20);
/// How often a user looks at an update.
const LOOK: Duration = Duration::from_millis(400);

/// How a process behaves in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Veto,
    Defer,
    Silent,
    Slow,
    NeverReady,
    LateVeto,
    Dies,
}

const MANNERS: [Manner; 9] = [
    Manner::Veto,
    Manner::Veto,
    Manner::Veto,
    Manner::Defer,
    Manner::Silent,
    Manner::Slow,
    Manner::NeverReady,
    Manner::LateVeto,
    Manner::Dies,
];

/// What a user does in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mind {
    Keeps,
    Cancels(Duration),
    Pauses,
}

/// A user.
#[derive(Debug)]
pub struct User<'a> {
    pub(crate) world: &'a World,
    pub(crate) told: &'a Told,
    pub(crate) random: Random,
}

impl<'a> User<'a> {
    /// One that has done nothing yet.
    pub fn new(world: &'a World, told: &'a Told, random: Random) -> Self {
        Self { world, told, random }
    }

    /// Asks for one change after another, until the storm is over.
    pub fn run(mut self) {
        while !self.world.is_calm() {
            if let Err(error) = self.change_something() {
                self.world.chronicle.note(format!("a user's command could not be run: {error:#}"));
            }
            let pause = self.random.millis(50, 1_000);
            self.world.sleep(pause);
        }
    }

    fn change_something(&mut self) -> Result<()> {
        if self.random.percent(8) {
            return self.take_a_node_back();
        }
        let at = self.random.below(self.world.nodes.len());
        let nodes = self.nodes();
        let manners = self.manners(&nodes);
        for (node, module, manner) in &manners {
            self.behave(*node, module, *manner);
        }
        let fresh = self.random.percent(12).then(|| (self.random.pick(&CHAIN).0, self.told.fresh_version()));
        let args = match &fresh {
            Some((package, version)) => {
                let file = self.world.software.build(package, version)?.display().to_string();
                self.install(vec![file], &nodes)
            }
            None if self.random.percent(20) => self.regress(&nodes),
            None => {
                let versions = self.versions();
                self.install(versions, &nodes)
            }
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if let Some(update) = self.told.submit(self.world, at, &args)? {
            if let Some((package, version)) = &fresh {
                self.told.has_published(package, version);
            }
            self.attend(&update, manners.clone())?;
        }
        // A process that was replaced meanwhile accepts by itself.
        for (node, module, _) in &manners {
            let _ = self.world.tell(*node, module, "go-on");
            let _ = self.world.tell(*node, module, "accept");
            let _ = self.world.tell(*node, module, "slow-ready 0");
        }
        Ok(())
    }

    fn nodes(&mut self) -> Vec<usize> {
        let all = self.world.nodes.len();
        let count = if self.random.percent(25) { all } else { 1 + self.random.below(3) };
        self.random.some(count, all)
    }

    fn manners(&mut self, nodes: &[usize]) -> Vec<(usize, &'static str, Manner)> {
        if self.random.percent(50) {
            return Vec::new();
        }
        let count = 1 + self.random.below(2);
        (0..count).map(|_| (*self.random.pick(nodes), self.random.pick(&CHAIN).1, *self.random.pick(&MANNERS))).collect()
    }

    fn behave(&self, node: usize, module: &str, manner: Manner) {
        let order = match manner {
            Manner::Veto => "veto a call is up",
            Manner::Defer => "defer 700 a moment",
            Manner::Silent => "hold-answer",
            Manner::Slow => "slow 1500",
            Manner::NeverReady => "hold-ready",
            Manner::LateVeto | Manner::Dies => "slow-ready 2000",
        };
        // It may not run at the moment.
        if self.world.tell(node, module, order).is_ok() {
            self.world.chronicle.note(format!("{module} on {} is told to {order}", self.world.nodes[node].name));
        }
    }

    /// Versions of some of the packages, up or down.
    fn versions(&mut self) -> Vec<String> {
        let first = self.random.below(CHAIN.len());
        let count = 1 + self.random.below(CHAIN.len() - first);
        let mut args = Vec::new();
        for (package, ..) in CHAIN.iter().skip(first).take(count) {
            let broken = *package == "billing" && self.random.percent(8);
            let version = if broken { BROKEN } else { *self.random.pick(&VERSIONS) };
            args.extend(["--package".into(), format!("{package}@{version}")]);
        }
        args
    }

    fn install(&mut self, what: Vec<String>, nodes: &[usize]) -> Vec<String> {
        let mut args: Vec<String> = vec!["update".into(), "submit".into()];
        args.extend(what);
        for node in nodes {
            args.extend(["--node".into(), self.world.nodes[*node].name.clone()]);
        }
        let strategy = if self.random.percent(50) { "together" } else { "rolling" };
        let on_failure = *self.random.pick(&["regress-all", "regress-all", "regress-node", "hold"]);
        args.extend(["--strategy", strategy, "--on-failure", on_failure, "--max-defer", "3s", "--again"].map(Into::into));
        if self.random.percent(60) {
            args.push("--skip-away".into());
        }
        if self.random.percent(20) {
            args.push("--ephemeral".into());
        }
        args
    }

    fn regress(&mut self, nodes: &[usize]) -> Vec<String> {
        let mut args: Vec<String> = vec!["regress".into(), "--again".into(), "--skip-away".into()];
        for node in nodes {
            args.extend(["--node".into(), self.world.nodes[*node].name.clone()]);
        }
        if self.random.percent(40) {
            args.extend(["--package".into(), self.random.pick(&CHAIN).0.to_owned()]);
        }
        if self.random.percent(40) {
            args.extend(["--force", "--why", "it has to go"].map(Into::into));
        }
        args
    }

    /// Looks at an update until it has ended, or for so long; does what a user does meanwhile.
    fn attend(&mut self, update: &str, mut manners: Vec<(usize, &'static str, Manner)>) -> Result<()> {
        let begun = Instant::now();
        let mind = match self.random.below(10) {
            0..2 => Mind::Cancels(self.random.millis(0, 6_000)),
            2..5 => Mind::Pauses,
            _ => Mind::Keeps,
        };
        let mut done = false;
        while !self.world.is_calm() && begun.elapsed() < UPDATE_PATIENCE {
            let first = self.random.below(self.world.nodes.len());
            let Ok(shown) = self.world.ask_any(first, &["update", "show", update], Duration::from_secs(3)) else {
                self.world.sleep(LOOK);
                continue;
            };
            if shown["phase"] == "ended" {
                break;
            }
            match mind {
                Mind::Cancels(after) if !done && begun.elapsed() >= after => {
                    self.order(&["update", "cancel", update])?;
                    done = true;
                }
                // There is something to pause only while nodes change over.
                Mind::Pauses if !done && shown["phase"] == "wave" => {
                    self.order(&["update", "pause", update])?;
                    done = true;
                }
                _ => {}
            }
            self.act(&mut manners, update, &shown);
            if shown["exit"].is_u64() {
                self.decide(update, &shown)?;
            }
            self.world.sleep(LOOK);
        }
        Ok(())
    }

    /// What processes do in the middle. One that dies does so once: after five times its keeper would give it up.
    fn act(&self, manners: &mut Vec<(usize, &'static str, Manner)>, update: &str, shown: &Value) {
        manners.retain(|(node, module, manner)| {
            let step = shown["nodes"][&self.world.nodes[*node].name]["step"].as_str().unwrap_or_default();
            let order = match (manner, step) {
                (Manner::LateVeto, "voted" | "staged" | "pending") => format!("late-veto {update} a call came in"),
                (Manner::Dies, "voted" | "staged" | "pending") => "exit 3".into(),
                _ => return true,
            };
            // It may be gone, or ready, or have no update.
            let _ = self.world.tell(*node, module, &order);
            !matches!(manner, Manner::Dies)
        });
    }

    /// The update waits for a user.
    fn decide(&mut self, update: &str, shown: &Value) -> Result<()> {
        let seen = shown["ballot_revision"].to_string();
        let nodes: Vec<String> = shown["nodes"].as_object().context("no nodes")?.keys().cloned().collect();
        let without = self.random.pick(&nodes).clone();
        let args: &[&str] = match (shown["phase"].as_str().unwrap_or_default(), self.random.below(5)) {
            ("paused", 0..4) => &["update", "resume", update],
            ("unpersisted", 0..2) => &["update", "persist", update],
            ("unpersisted", _) => &["update", "cancel", update],
            (_, 0..2) => &["update", "decide", update, "--force", "--seen", &seen, "--why", "it has to be"],
            (_, 2) if nodes.len() > 1 => &["update", "decide", update, "--without", &without],
            (_, 3) => &["update", "decide", update, "--ask-again"],
            _ => &["update", "decide", update, "--abort"],
        };
        self.order(args).map(drop)
    }

    /// Gives an order at any node.
    pub(crate) fn order(&mut self, args: &[&str]) -> Result<i32> {
        let at = self.random.below(self.world.nodes.len());
        let output = self.world.admin(at, args, PATIENCE)?;
        let said = if output.code == 0 { "" } else { output.stderr.trim() };
        self.world.chronicle.note(format!("n{}: tribune {} -> {} {said}", at + 1, args.join(" "), output.code));
        let done = if output.code == 0 { "" } else { " (not done)" };
        self.world.chronicle.count(Count::Orders, format!("{} {}{done}", args[0], args[1]));
        Ok(output.code)
    }
}

/// Lets every process accept and go on, whatever it was told before.
pub fn all_accept(world: &World) -> Result<()> {
    for (node, services) in world.services_everywhere()?.iter().enumerate() {
        for service in services.iter().filter(|service| service.module != BYSTANDER.1) {
            for order in ["go-on", "accept", "slow-ready 0"] {
                // It may be about to end.
                let _ = world.tell_service(node, service, order);
            }
        }
    }
    Ok(())
}
