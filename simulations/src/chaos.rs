//! Lets faults come when they are due, and heals them.

mod damage;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::faults::{Fault, Planned, When, Who};
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
    Part(usize),
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
    one_way: BTreeSet<usize>,
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
            one_way: BTreeSet::new(),
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
        if now < self.began {
            return;
        }
        let since = now - self.began;
        let mut reached = reached(seen);
        self.reached_beside_updates(seen, &mut reached);
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
            if !self.inflict(cluster, seen, fault, mover) {
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
            if !matches!(heal, Heal::Part(_)) {
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

    /// Which node a fault hits; `None` if there is none such now.
    fn whom(&self, seen: &Seen, who: Who, mover: Option<usize>) -> Option<usize> {
        match who {
            Who::Node(node) => Some(node),
            Who::Master => self.master(seen),
            Who::Mover(node) => Some(mover.unwrap_or(node)),
        }
    }

    /// Lets a fault come; false if it cannot, or changes nothing.
    fn inflict(&mut self, cluster: &mut Cluster<'_>, seen: &Seen, fault: Fault, mover: Option<usize>) -> bool {
        let now = seen.at;
        match fault {
            Fault::Partition { side, for_ } => {
                let others: Vec<usize> = (0..self.nodes).filter(|node| !side.contains(node)).collect();
                let links = side.iter().flat_map(|a| others.iter().map(move |b| link(&name(*a), &name(*b)))).collect();
                self.part(cluster, links, now + for_)
            }
            Fault::Apart { for_ } => {
                let Some(master) = self.master(seen).map(name) else { return false };
                let others = seen.in_raft().into_iter().filter(|node| *node != master);
                let links = others.map(|node| link(&node, &master)).collect();
                self.part(cluster, links, now + for_)
            }
            Fault::Flapping { node, times, each } => {
                for time in 0..times {
                    self.heals.push((now + each * (2 * time), Heal::Part(node)));
                    self.heals.push((now + each * (2 * time + 1), Heal::Join(self.links(node))));
                }
                true
            }
            Fault::Slow { most, for_ } => {
                cluster.sim.set_max_message_latency(most);
                self.heals.push((now + for_, Heal::Fast));
                true
            }
            Fault::Dropped => {
                for user in 1..=self.users {
                    for node in 0..self.nodes {
                        break_between(cluster.sim.lookup(format!("user{user}")), cluster.sim.lookup(name(node)));
                    }
                }
                true
            }
            Fault::Killed { who, .. }
            | Fault::ProcessesKilled { who }
            | Fault::PowerCut { who, .. }
            | Fault::OneWay { who, .. }
            | Fault::CutOff { who, .. }
            | Fault::Lossy { who, .. }
            | Fault::BitTurned { who, .. }
            | Fault::Hung { who, .. }
            | Fault::SlowDisk { who, .. }
            | Fault::DiskFull { who, .. }
            | Fault::Liar { who, .. }
            | Fault::DiskLost { who, .. } => match self.whom(seen, who, mover) {
                Some(node) => self.hit(cluster, seen, &fault, node),
                None => false,
            },
        }
    }

    /// Lets a fault come that hits one node; false if it cannot, or changes nothing.
    fn hit(&mut self, cluster: &mut Cluster<'_>, seen: &Seen, fault: &Fault, node: usize) -> bool {
        let now = seen.at;
        let machine = cluster.places[node].machine.clone();
        match fault {
            Fault::Killed { after, .. } => self.kill(cluster, node, now + *after),
            Fault::ProcessesKilled { .. } => machine.kill_processes(),
            Fault::PowerCut { after, .. } => self.cut(cluster, node, now + *after),
            Fault::OneWay { for_, .. } => {
                if !self.apart.is_empty() || !self.one_way.insert(node) {
                    return false;
                }
                for other in (0..self.nodes).filter(|other| *other != node) {
                    cluster.sim.partition_oneway(name(node), name(other));
                }
                self.heals.push((now + *for_, Heal::Hear(node)));
                true
            }
            Fault::CutOff { for_, .. } => {
                let links = self.links(node);
                self.part(cluster, links, now + *for_)
            }
            Fault::Hung { for_, .. } => {
                let users = (1..=self.users).map(|user| link(&format!("user{user}"), &name(node)));
                let links = users.chain([link("reader", &name(node))]).chain(self.links(node)).collect();
                self.part(cluster, links, now + *for_)
            }
            Fault::SlowDisk { takes, for_, .. } => {
                machine.slow_down(*takes);
                self.heals.push((now + *for_, Heal::FastDisk(node)));
                true
            }
            Fault::DiskFull { for_, .. } => {
                machine.fill();
                self.heals.push((now + *for_, Heal::Room(node)));
                true
            }
            Fault::Liar { for_, .. } => {
                wire::lie(cluster.sim.lookup(name(node)));
                self.heals.push((now + *for_, Heal::Honest(node)));
                true
            }
            Fault::Lossy { most, for_, .. } => {
                for other in (0..self.nodes).filter(|other| *other != node) {
                    cluster.sim.set_link_max_message_latency(name(node), name(other), *most);
                }
                self.heals.push((now + *for_, Heal::Sound(node)));
                true
            }
            Fault::BitTurned { local, .. } => !self.lost && self.turn_a_bit(cluster, seen, node, *local),
            Fault::DiskLost { after, .. } => {
                let may = !self.lost && !cluster.common.lock().one_is_gone;
                if !may || self.down.contains(&node) || !seen.is_member(&name(node)) {
                    return false;
                }
                self.lose_disk(cluster, node);
                self.heals.push((now + *after, Heal::Start(node)));
                true
            }
            // These hit more than one node.
            Fault::Partition { .. } | Fault::Apart { .. } | Fault::Flapping { .. } | Fault::Slow { .. } | Fault::Dropped => false,
        }
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
        (0..self.nodes).filter(|other| *other != node).map(|other| link(&name(node), &name(other))).collect()
    }

    fn part(&mut self, cluster: &mut Cluster<'_>, links: Vec<Link>, until: Duration) -> bool {
        // turmoil cannot hold links of which one direction is cut.
        let can = self.one_way.is_empty() && !links.is_empty();
        if can {
            self.hold(cluster, &links);
            self.heals.push((until, Heal::Join(links)));
        }
        can
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
                self.one_way.remove(&node);
                for other in (0..self.nodes).filter(|other| *other != node) {
                    cluster.sim.repair_oneway(name(node), name(other));
                    break_between(cluster.sim.lookup(name(node)), cluster.sim.lookup(name(other)));
                }
            }
            Heal::Part(node) => {
                if self.one_way.is_empty() {
                    let links = self.links(node);
                    self.hold(cluster, &links);
                }
            }
            Heal::FastDisk(node) => cluster.places[node].machine.slow_down(Duration::ZERO),
            Heal::Room(node) => cluster.places[node].machine.make_room(),
            Heal::Honest(node) => wire::tell_the_truth(cluster.sim.lookup(name(node))),
            Heal::Fast => cluster.sim.set_max_message_latency(FAST),
            Heal::Sound(node) => {
                for other in (0..self.nodes).filter(|other| *other != node) {
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
