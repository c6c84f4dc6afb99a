//! One run: a seed makes a cluster, its users and its faults; everything that must hold is looked at after each step.

mod disaster;
mod folder;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tribune_node::raft::RaftSettings;
use tribune_raft_store::model::{NodeName, PackageId, Phase, UpdateId, VoterPreference};

use crate::catalogue::{self, Item};
use crate::chaos::{Chaos, Publishing};
use crate::cluster::Cluster;
use crate::history::History;
use crate::invariants::{self, Invariant};
use crate::plan::{Disaster, Plan};
use crate::seen::Seen;
use crate::story::tell::{self, Tale, Wanted};
use crate::trace::{Event, Trace};
use crate::users::{Stage, Users};
use folder::Folder;

/// One step of virtual time.
const TICK: Duration = Duration::from_millis(5);
/// How long a cluster may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(240);
/// Bytes of a run's stack.
const STACK: usize = 64 * 1024 * 1024;
/// Within this, once faults have stopped, every update that does not wait for a user ends, and a fresh one completes.
pub const QUIET_WITHIN: Duration = Duration::from_secs(240);

/// The versions of the package that stands alone which a fresh update brings: those whose processes are well and do not veto.
const FRESH: [&str; 2] = ["1.0.0", "1.1.0"];

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub hash: blake3::Hash,
    pub violation: Option<Violation>,
    pub events: Vec<Event>,
    pub virtual_time: Duration,
    pub updates: usize,
    /// What is printed of its story, if it tells one.
    pub transcript: Vec<String>,
    /// How often each fault met each step.
    pub met: BTreeMap<(String, &'static str), u64>,
}

/// Something that does not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: &'static str,
    pub sentence: &'static str,
    pub what: String,
    pub at: Duration,
}

fn node_names(count: usize) -> Vec<String> {
    (1..=count).map(|at| format!("n{at}")).collect()
}

/// What all nodes have at first.
fn first_software(nodes: &[String], items: &[Item], is_first: impl Fn(&Item) -> bool) -> BTreeMap<NodeName, BTreeSet<PackageId>> {
    let first: BTreeSet<PackageId> = items.iter().filter(|item| is_first(item)).map(|item| item.id).collect();
    nodes.iter().filter_map(|node| Some((node.parse().ok()?, first.clone()))).collect()
}

/// What a panic said, and where.
static PANICKED: Mutex<String> = Mutex::new(String::new());

const NO_PANIC: (&str, &str) = ("no-panic", "No part of a node ever panics.");

fn panicked() -> Option<String> {
    let said = PANICKED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (!said.is_empty()).then_some(said)
}

/// Notes what a panic says: turmoil ends the run with it.
fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut first = PANICKED.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_empty() {
            *first = panic.to_string().replace('\n', " ");
        }
        // Should it end the whole program, this is all that is left of it.
        eprintln!("{}", panic.to_string().replace('\n', " "));
    }));
}

/// A run under way.
struct Run<'a> {
    cluster: Cluster<'a>,
    chaos: Chaos,
    invariants: Vec<Box<dyn Invariant>>,
    seen: Option<Seen>,
    tale: Option<Tale>,
    load: Duration,
    disaster: Option<Disaster>,
    stage: Stage,
    history: History,
    trace: Trace,
    met: BTreeMap<(String, &'static str), u64>,
}

/// The clock and the chance of a program that plays.
///
/// They are the program's to bring, and not this library's: whatever they are linked into has no clock outside of a run, and a program's tests
/// would wait for nothing, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Bottle {
    /// From here on, what the program draws comes from this.
    pub draw_from: fn(StdRng),
    /// As long as what it gives is held, the clock is the simulation's.
    pub hold_clock: fn() -> Box<dyn Any>,
}

/// Plays a run, in a thread of its own: the keys of its hash maps are drawn once for each thread, and whatever else this program did before,
/// such as preparing logs, must not move them.
///
/// # Errors
/// It could not be set up at all, which says nothing about the cluster.
pub fn play(plan: Plan, bottle: Bottle) -> Result<Outcome> {
    note_panics();
    let player =
        std::thread::Builder::new().name("simulation".into()).stack_size(STACK).spawn(move || play_here(plan, bottle))?;
    player.join().map_err(|_| anyhow::anyhow!("the run panicked: {}", panicked().unwrap_or_default()))?
}

fn play_here(plan: Plan, bottle: Bottle) -> Result<Outcome> {
    (bottle.draw_from)(StdRng::seed_from_u64(plan.seed));
    tribune_p2p::blocking::stay_in_place();
    let folder = Folder::new(plan.seed)?;
    let items = Arc::new(match &plan.story {
        Some(story) => tell::build(story, &folder.0.join("packages"))?,
        None => catalogue::build(&folder.0.join("packages"))?,
    });
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(plan.seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(36_000))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(crate::chaos::FAST)
        .tcp_capacity(4096)
        .enable_random_order();
    let sim = builder.build();
    let _clock = (bottle.hold_clock)();
    let trace = Trace::default();
    let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x7472_6962);
    let preference = |at: usize| if plan.members.contains(&at) { VoterPreference::Never } else { VoterPreference::May };
    let preferences: Vec<VoterPreference> = (0..plan.nodes + plan.spares).map(preference).collect();
    // Some clusters make snapshots often, so that who lags gets one.
    let raft = match rng.random_bool(0.5) {
        true => RaftSettings { snapshot_every: 40, keep_entries: 10, ..RaftSettings::default() },
        false => RaftSettings::default(),
    };
    let mut cluster = Cluster::new(sim, &folder.0, &preferences, &raft, &trace);
    cluster.common.lock().spare = node_names(plan.nodes + plan.spares).split_off(plan.nodes).into_iter().collect();
    let nodes = node_names(plan.nodes);
    let (stage, history, publishing) = (Stage::default(), History::default(), Publishing::default());
    let users = Users {
        folder: folder.0.clone(),
        common: cluster.common.clone(),
        items: items.clone(),
        published: Arc::default(),
        publishing: publishing.clone(),
        likes: plan.likes,
        nodes: nodes.clone(),
        stage: stage.clone(),
        history: history.clone(),
        trace: trace.clone(),
    };
    let first = match &plan.story {
        Some(story) => first_software(&nodes, &items, |item| {
            story.installed.iter().any(|(name, version)| item.name == *name && item.version == *version)
        }),
        None => first_software(&nodes, &items, |item| item.version == "1.0.0"),
    };
    let admin = users.clone();
    cluster.sim.client("ada", async move { Ok(admin.set_up(first).await?) });
    for user in 1..=plan.users {
        let users = users.clone();
        cluster.sim.client(format!("user{user}"), async move { Ok(users.live(user).await?) });
    }
    for user in plan.users + 2..plan.users + 2 + plan.crowd {
        let users = users.clone();
        cluster.sim.client(format!("crowd{user}"), async move { Ok(users.crowd(user).await?) });
    }
    let tale = plan.story.clone().map(|story| {
        let (tale, users) = (Tale::default(), users.clone());
        let teller = tell::tell(story, tale.clone(), users);
        cluster.sim.client("teller", async move {
            teller.await;
            Ok(())
        });
        tale
    });
    if tale.is_none() {
        let reader = users.clone();
        let user = plan.users + 1;
        cluster.sim.client("reader", async move { Ok(reader.watch(user).await?) });
    }
    let chaos = Chaos::new(plan.faults.clone(), (plan.nodes + plan.spares, plan.users), &publishing, &trace);
    let mut run = Run {
        cluster,
        chaos,
        invariants: invariants::all(),
        seen: None,
        tale,
        load: plan.load,
        disaster: plan.disaster,
        stage,
        history,
        trace: trace.clone(),
        met: BTreeMap::new(),
    };
    let violation = match catch_unwind(AssertUnwindSafe(|| run.whole(&users, &items))) {
        Ok(violation) => violation?,
        Err(_) => Some(run.violation(NO_PANIC.0, NO_PANIC.1, panicked().unwrap_or_default())),
    };
    Ok(Outcome {
        hash: trace.hash(),
        violation,
        events: trace.events(),
        virtual_time: run.trace.time(),
        updates: run.seen.as_ref().map_or(0, |seen| seen.updates().len()),
        met: run.met,
        transcript: tell::transcript(&trace),
        plan,
    })
}

impl Run<'_> {
    fn whole(&mut self, users: &Users, items: &[Item]) -> Result<Option<Violation>> {
        let up = self.until(UP_WITHIN, |run| run.stage.get() == Stage::LOAD)?;
        if let Reached::Violation(violation) = up {
            return Ok(Some(violation));
        }
        if let Reached::Not = up {
            return Ok(Some(self.liveness("the cluster did not come up")));
        }
        let began = self.cluster.sim.elapsed();
        self.trace.note("run", "the load begins");
        self.chaos.begin(began);
        let loaded = match self.tale.clone() {
            None => self.until(self.load, |_| false)?,
            Some(tale) => self.until(self.load, |_| tale.is_over())?,
        };
        if let Reached::Violation(violation) = loaded {
            return Ok(Some(violation));
        }
        let unfinished =
            self.tale.as_ref().filter(|tale| !tale.is_over()).map(|_| format!("it was not told within {:?}", self.load));
        if let Some(what) = self.tale.as_ref().and_then(Tale::wrong).or(unfinished) {
            return Ok(Some(self.violation("story", "Each statement can be carried out.", what)));
        }
        self.trace.note("run", "all is healed");
        self.chaos.heal(&mut self.cluster);
        self.stage.set(Stage::QUIET);
        match self.until(QUIET_WITHIN, |run| run.seen.as_ref().is_some_and(Seen::is_at_rest))? {
            Reached::Violation(violation) => return Ok(Some(violation)),
            Reached::Not => {
                let open = self.open_updates();
                return Ok(Some(self.liveness(&format!("{QUIET_WITHIN:?} after all was healed, these go on: {open}"))));
            }
            Reached::Yes => {}
        }
        if self.tale.is_some() {
            return Ok(self.look_at_rest());
        }
        if let Some(violation) = self.fresh_update(users, items, "late")? {
            return Ok(Some(violation));
        }
        if let Some(disaster) = self.disaster.filter(|_| self.chaos.nothing_is_lost()) {
            if let Some(violation) = self.lose_the_majority(disaster, users)? {
                return Ok(Some(violation));
            }
            if let Some(violation) = self.fresh_update(users, items, "later")? {
                return Ok(Some(violation));
            }
        }
        self.stage.set(Stage::OVER);
        // Outcomes are told after the end is in the record.
        if let Reached::Violation(violation) = self.until(Duration::from_secs(15), |_| false)? {
            return Ok(Some(violation));
        }
        Ok(self.look_at_rest())
    }

    /// Somebody wants an update of all nodes, and it must come to its end.
    fn fresh_update(&mut self, users: &Users, items: &[Item], who: &'static str) -> Result<Option<Violation>> {
        let fresh: Arc<Mutex<Option<UpdateId>>> = Arc::default();
        let (users, to) = (users.clone(), fresh.clone());
        let packages: Vec<PackageId> = items
            .iter()
            .filter(|item| item.name == "alone" && FRESH.contains(&item.version.as_str()))
            .map(|item| item.id)
            .collect();
        self.cluster.sim.client(who, async move { Ok(users.fresh(packages, to).await?) });
        let ended = |run: &Run<'_>| {
            let id = fresh.lock().ok().and_then(|fresh| *fresh);
            id.is_some_and(|id| run.phase_of(id).is_some_and(|phase| phase.ended() || phase.waits_for_user()))
        };
        Ok(match self.until(QUIET_WITHIN, ended)? {
            Reached::Violation(violation) => Some(violation),
            Reached::Not => Some(self.liveness("a fresh update did not come to its end")),
            Reached::Yes => None,
        })
    }

    fn phase_of(&self, id: UpdateId) -> Option<Phase> {
        self.seen.as_ref()?.updates().get(&id).map(|update| update.phase.clone())
    }

    fn open_updates(&self) -> String {
        let Some(seen) = &self.seen else { return "nothing was seen".into() };
        let mut open = Vec::new();
        for (id, update) in seen.updates() {
            if !update.phase.ended() {
                let steps: Vec<String> = update.nodes.iter().map(|(name, node)| format!("{name} {}", node.step)).collect();
                open.push(format!("{id} {} ({})", update.phase, steps.join(", ")));
            }
        }
        let down: Vec<String> =
            self.cluster.common.lock().down.iter().map(|(name, why)| format!("{name} is down: {why}")).collect();
        [open, down].concat().join("; ")
    }

    fn liveness(&self, what: &str) -> Violation {
        let sentence = "Once faults have stopped, every update that does not wait for a user ends, and a fresh one completes.";
        self.violation("liveness", sentence, what.to_owned())
    }

    fn violation(&self, invariant: &'static str, sentence: &'static str, what: String) -> Violation {
        Violation { invariant, sentence, what, at: self.trace.time() }
    }

    /// Steps until something is so, or the time is up.
    fn until(&mut self, within: Duration, so: impl Fn(&Self) -> bool) -> Result<Reached> {
        let end = self.cluster.sim.elapsed() + within;
        while self.cluster.sim.elapsed() < end {
            if let Some(violation) = self.step()? {
                return Ok(Reached::Violation(violation));
            }
            if so(self) {
                return Ok(Reached::Yes);
            }
        }
        Ok(Reached::Not)
    }

    fn step(&mut self) -> Result<Option<Violation>> {
        self.cluster.sim.step().map_err(|error| anyhow::anyhow!("{error}")).context("a user or machine failed")?;
        self.trace.at(self.cluster.sim.elapsed());
        let seen = Seen::look(&self.cluster, self.seen.as_ref());
        self.note_moves(&seen);
        if let Some(tale) = &self.tale {
            tale.show(&seen);
            for wanted in tale.wanted() {
                match wanted {
                    Wanted::Fault(planned) => self.chaos.add(planned),
                    Wanted::Heal => self.chaos.heal(&mut self.cluster),
                }
            }
        }
        self.chaos.step(&mut self.cluster, &seen, &mut self.met);
        if let Some(what) = panicked() {
            return Ok(Some(self.violation(NO_PANIC.0, NO_PANIC.1, what)));
        }
        let mut violation = None;
        let moved = seen.has_moved();
        for invariant in self.invariants.iter_mut().filter(|invariant| moved || !invariant.only_of_record()) {
            if let Err(what) = invariant.step(&seen) {
                violation = Some(Violation { invariant: invariant.name(), sentence: invariant.sentence(), what, at: seen.at });
                break;
            }
        }
        self.seen = Some(seen);
        Ok(violation)
    }

    fn look_at_rest(&mut self) -> Option<Violation> {
        let seen = self.seen.as_ref()?;
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.at_rest(seen, &self.history) {
                return Some(Violation { invariant: invariant.name(), sentence: invariant.sentence(), what, at: seen.at });
            }
        }
        None
    }

    /// Writes down what moved in the record, and who is master.
    fn note_moves(&self, seen: &Seen) {
        for node in &seen.nodes {
            let is = node.leadership.as_ref().is_some_and(|leadership| leadership.is_master);
            let last = self.seen.as_ref().and_then(|seen| seen.nodes.iter().find(|other| other.name == node.name));
            let was = last.and_then(|last| last.leadership.as_ref()).is_some_and(|leadership| leadership.is_master);
            if is != was {
                self.trace.note(&node.name, if is { "is the master" } else { "is not the master any more" });
            }
        }
        if !seen.has_moved() {
            return;
        }
        for (id, update) in seen.updates() {
            let was = seen.was(id);
            if was.is_none_or(|was| was.phase != update.phase) {
                let why = update.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
                self.trace.note("record", format!("{id} is {}{why}", update.phase));
            }
            for (name, node) in &update.nodes {
                if was.and_then(|was| was.nodes.get(name)).is_none_or(|was| was.step != node.step) {
                    self.trace.note("record", format!("{id} on {name}: {}", node.step));
                }
            }
        }
    }
}

/// Whether something was reached.
enum Reached {
    Yes,
    Not,
    Violation(Violation),
}
