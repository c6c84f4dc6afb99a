//! Lets faults come when they are due, and heals them.

mod damage;
mod inflict;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::faults::{Fault, Planned, When};
use crate::machine::wire::{self, break_between};
use crate::seen::Seen;
use crate::trace::Trace;
use steps::{reached, states};

/// Steps that are no state of an update.
const BESIDE_UPDATES: [&str; 5] = ["election", "deposed", "standby", "voter", "publishing"];

/// How long a message takes at most, if nothing is wrong.
pub const FAST: Duration = Duration::from_millis(10);

/// What is to be done at a time.
#[derive(Debug, Clone)]
enum Heal {
    Start(usize),
    Join(Vec<Link>),
    Hear(usize),
    /// A node that comes and goes is cut off again, until then.
    Part(usize, Duration),
    Fast,
    /// Messages of a node are as fast as others again.
    Sound(usize),
    /// The disk of a node is fast again.
    FastDisk(usize),
    /// It has room again.
    Room(usize),
    /// What a node sends is as it should be again.
    Honest(usize),
}

/// A fault whose step has come.
#[derive(Debug)]
struct Due {
    at: Duration,
    fault: Fault,
    /// The node whose step it was.
    mover: Option<usize>,
    /// The step, if it was aimed at one that is no state of an update.
    beside: Option<&'static str>,
}

/// Two machines, by name and in order.
type Link = (String, String);

/// See the module.
pub struct Chaos {
    nodes: usize,
    users: usize,
    began: Duration,
    waiting: Vec<Planned>,
    /// Those whose step has come.
    due: Vec<Due>,
    heals: Vec<(Duration, Heal)>,
    down: BTreeSet<usize>,
    /// Machines that are held apart, and how often.
    apart: BTreeMap<Link, u32>,
    /// Nodes of which what they say does not reach these others.
    one_way: BTreeMap<usize, Vec<usize>>,
    /// Whether something was lost for good: on one node only in a run, for a majority must have what is acknowledged.
    lost: bool,
    /// The term of each node when it was last looked at, and whether it was master.
    terms: BTreeMap<usize, (u64, bool)>,
    /// With which Raft id each node last took part in Raft.
    raft_ids: BTreeMap<usize, u64>,
    publishing: Publishing,
    /// How many of these were looked at.
    published: u64,
    trace: Trace,
}

/// How many packages users began to publish: it is not in the record before it is over.
pub type Publishing = Arc<AtomicU64>;

impl Chaos {
    pub fn new(planned: Vec<Planned>, (nodes, users): (usize, usize), publishing: &Publishing, trace: &Trace) -> Self {
        Self {
            nodes,
            users,
            began: Duration::MAX,
            waiting: planned,
            due: Vec::new(),
            heals: Vec::new(),
            down: BTreeSet::new(),
            apart: BTreeMap::new(),
            one_way: BTreeMap::new(),
            lost: false,
            terms: BTreeMap::new(),
            raft_ids: BTreeMap::new(),
            publishing: publishing.clone(),
            published: 0,
            trace: trace.clone(),
        }
    }

    /// The load begins now.
    pub fn begin(&mut self, now: Duration) {
        self.began = now;
    }

    /// One more fault: its step is looked for from now on.
    pub fn add(&mut self, planned: Planned) {
        self.waiting.push(planned);
    }

    /// Lets come what is due.
    pub fn step(&mut self, cluster: &mut Cluster<'_>, seen: &Seen, met: &mut BTreeMap<(String, &'static str), u64>) {
        let now = seen.at;
        let mut reached = reached(seen);
        self.reached_beside_updates(seen, &mut reached);
        if now < self.began {
            return;
        }
        let since = now - self.began;
        let mut due = Vec::new();
        self.waiting.retain(|planned| match &planned.when {
            When::At(at) if since >= *at => {
                due.push(Due { at: now, fault: planned.fault.clone(), mover: None, beside: None });
                false
            }
            When::Step { after, step, then } if since >= *after && reached.contains_key(step) => {
                let beside = BESIDE_UPDATES.contains(step).then_some(*step);
                let mover = reached.get(step).copied().flatten();
                due.push(Due { at: now + *then, fault: planned.fault.clone(), mover, beside });
                false
            }
            _ => true,
        });
        self.due.extend(due);
        let (ripe, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.due).into_iter().partition(|due| due.at <= now);
        self.due = later;
        for Due { fault, mover, beside, .. } in ripe {
            self.trace.note("fault", fault.to_string());
            let kind = fault.kind();
            if self.inflict(cluster, seen, fault, mover).is_none() {
                self.trace.note("fault", "it does not come: there is nothing for it to hit now");
                continue;
            }
            for state in states(seen).into_iter().chain(beside.map(str::to_owned)) {
                *met.entry((state, kind)).or_default() += 1;
            }
        }
        let (ripe, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heals).into_iter().partition(|(at, _)| *at <= now);
        self.heals = later;
        for (_, heal) in ripe {
            self.mend(cluster, heal);
        }
    }

    /// Everything is as it should be, from now on.
    pub fn heal(&mut self, cluster: &mut Cluster<'_>) {
        self.waiting.clear();
        self.due.clear();
        for (_, heal) in std::mem::take(&mut self.heals) {
            if !matches!(heal, Heal::Part(..)) {
                self.mend(cluster, heal);
            }
        }
        for (a, b) in std::mem::take(&mut self.apart).into_keys() {
            cluster.sim.release(a, b);
        }
        for node in std::mem::take(&mut self.down) {
            self.start(cluster, node);
        }
    }

    fn master(&self, seen: &Seen) -> Option<usize> {
        // The one with the highest term: an older one may not know yet that it is none any more.
        let masters = seen.nodes.iter().enumerate().filter_map(|(at, node)| {
            let leadership = node.leadership.as_ref().filter(|leadership| leadership.is_master)?;
            Some((leadership.term, at))
        });
        masters.max().map(|(_, at)| at)
    }

    /// Whether every node has still all that it ever had.
    pub fn nothing_is_lost(&self) -> bool {
        !self.lost
    }

    /// A node's disk is lost, and it is off.
    pub fn lose_disk(&mut self, cluster: &mut Cluster<'_>, node: usize) {
        self.lost = true;
        self.turn_off(cluster, node);
        cluster.places[node].machine.lose_disk();
        cluster.common.lock().lose(&name(node));
    }

    /// A node is off from now on.
    pub fn turn_off(&mut self, cluster: &mut Cluster<'_>, node: usize) {
        if self.down.insert(node) {
            cluster.sim.crash(name(node));
            forget(cluster, node);
            cluster.places[node].machine.cut_power();
        }
    }

    /// A node is on again.
    pub fn turn_on(&mut self, cluster: &mut Cluster<'_>, node: usize) {
        if self.down.contains(&node) {
            self.start(cluster, node);
        }
    }

    fn kill(&mut self, cluster: &mut Cluster<'_>, node: usize, until: Duration) -> bool {
        let ran = self.down.insert(node);
        if ran {
            cluster.sim.crash(name(node));
            forget(cluster, node);
            self.heals.push((until, Heal::Start(node)));
        }
        ran
    }

    fn cut(&mut self, cluster: &mut Cluster<'_>, node: usize, until: Duration) -> bool {
        let ran = !self.down.contains(&node);
        if ran {
            self.turn_off(cluster, node);
            self.heals.push((until, Heal::Start(node)));
        }
        ran
    }

    fn start(&mut self, cluster: &mut Cluster<'_>, node: usize) {
        self.down.remove(&node);
        self.trace.note(&name(node), "is started again");
        cluster.sim.bounce(name(node));
    }

    /// What binds a node to the others.
    fn links(&self, node: usize) -> Vec<Link> {
        self.others(node).map(|other| link(&name(node), &name(other))).collect()
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.nodes).filter(move |other| *other != node)
    }

    /// Holds these links until then; false if there is none that can be held.
    fn part(&mut self, cluster: &mut Cluster<'_>, mut links: Vec<Link>, until: Duration) -> bool {
        self.leave_one_way(&mut links);
        let can = !links.is_empty();
        if can {
            self.hold(cluster, &links);
            self.heals.push((until, Heal::Join(links)));
        }
        can
    }

    /// Leaves out the links of which one direction is cut: turmoil cannot hold these. Such a link is whole again when its cut is over,
    /// even if what it was left out of goes on.
    fn leave_one_way(&self, links: &mut Vec<Link>) {
        let cut = |node: usize| self.one_way.get(&node).into_iter().flatten().map(move |other| link(&name(node), &name(*other)));
        let one_way: BTreeSet<Link> = self.one_way.keys().copied().flat_map(cut).collect();
        links.retain(|link| !one_way.contains(link));
    }

    fn hold(&mut self, cluster: &mut Cluster<'_>, links: &[Link]) {
        for held in links {
            let times = self.apart.entry(held.clone()).or_default();
            *times += 1;
            if *times == 1 {
                cluster.sim.hold(held.0.as_str(), held.1.as_str());
            }
        }
    }

    fn mend(&mut self, cluster: &mut Cluster<'_>, heal: Heal) {
        match heal {
            Heal::Start(node) => self.turn_on(cluster, node),
            Heal::Join(links) => {
                for held in links {
                    let Some(times) = self.apart.get_mut(&held) else { continue };
                    *times -= 1;
                    if *times == 0 {
                        self.apart.remove(&held);
                        cluster.sim.release(held.0, held.1);
                    }
                }
            }
            Heal::Hear(node) => {
                for other in self.one_way.remove(&node).unwrap_or_default() {
                    cluster.sim.repair_oneway(name(node), name(other));
                    break_between(cluster.sim.lookup(name(node)), cluster.sim.lookup(name(other)));
                }
            }
            Heal::Part(node, until) => {
                let links = self.links(node);
                self.part(cluster, links, until);
            }
            Heal::FastDisk(node) => cluster.places[node].machine.slow_down(Duration::ZERO),
            Heal::Room(node) => cluster.places[node].machine.make_room(),
            Heal::Honest(node) => wire::tell_the_truth(cluster.sim.lookup(name(node))),
            Heal::Fast => cluster.sim.set_max_message_latency(FAST),
            Heal::Sound(node) => {
                for other in self.others(node) {
                    cluster.sim.set_link_max_message_latency(name(node), name(other), FAST);
                }
            }
        }
    }

    /// What became of masters, of who is in Raft, and of packages that users publish.
    fn reached_beside_updates(&mut self, seen: &Seen, reached: &mut BTreeMap<&'static str, Option<usize>>) {
        for (at, node) in seen.nodes.iter().enumerate() {
            let Some(leadership) = &node.leadership else {
                self.terms.remove(&at);
                continue;
            };
            let now = (leadership.term, leadership.is_master);
            let (term, was_master) = self.terms.insert(at, now).unwrap_or(now);
            if leadership.term > term {
                reached.insert("election", Some(at));
            }
            if was_master && !leadership.is_master {
                reached.insert("deposed", Some(at));
            }
        }
        for (at, node) in seen.nodes.iter().enumerate() {
            let new = node.raft_id.filter(|id| self.raft_ids.get(&at) != Some(id));
            if let Some(id) = new {
                self.raft_ids.insert(at, id);
                reached.insert("standby", Some(at));
            }
        }
        if let Some(name) = seen.new_voters().first() {
            reached.insert("voter", seen.nodes.iter().position(|node| node.name == *name));
        }
        let published = self.publishing.load(Ordering::Relaxed);
        if published > self.published {
            self.published = published;
            reached.insert("publishing", None);
        }
    }
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

fn link(a: &str, b: &str) -> Link {
    (a.min(b).to_owned(), a.max(b).to_owned())
}

/// A crashed node is not seen from within any more.
fn forget(cluster: &mut Cluster<'_>, node: usize) {
    cluster.common.lock().inside.remove(&name(node));
    let mut inner = cluster.places[node].machine.lock();
    inner.events = None;
    inner.desk = None;
}
