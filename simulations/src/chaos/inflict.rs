//! How each kind of fault comes.

use std::time::Duration;

use super::{Chaos, Heal, link, name};
use crate::cluster::Cluster;
use crate::faults::{Fault, Who};
use crate::machine::wire::{self, break_between};
use crate::seen::Seen;

impl Chaos {
    /// Lets a fault come; `None` if it cannot, or changes nothing.
    pub(super) fn inflict(&mut self, cluster: &mut Cluster<'_>, seen: &Seen, fault: Fault, mover: Option<usize>) -> Option<()> {
        let now = seen.at;
        match fault {
            Fault::Killed { who, after } => {
                let node = self.whom(seen, who, mover)?;
                self.kill(cluster, node, now + after)
            }
            Fault::ProcessesKilled { who } => {
                let node = self.whom(seen, who, mover)?;
                cluster.places[node].machine.kill_processes()
            }
            Fault::PowerCut { who, after } => {
                let node = self.whom(seen, who, mover)?;
                self.cut(cluster, node, now + after)
            }
            Fault::Partition { side, for_ } => {
                let others: Vec<usize> = (0..self.nodes).filter(|node| !side.contains(node)).collect();
                let links = side.iter().flat_map(|a| others.iter().map(move |b| link(&name(*a), &name(*b)))).collect();
                self.part(cluster, links, now + for_)
            }
            Fault::OneWay { who, for_ } => {
                let node = self.whom(seen, who, mover)?;
                self.silence(cluster, node, now + for_)
            }
            Fault::CutOff { who, for_ } => {
                let node = self.whom(seen, who, mover)?;
                self.part(cluster, self.links(node), now + for_)
            }
            Fault::Flapping { node, times, each } => {
                for time in 0..times {
                    let from = now + each * (2 * time);
                    self.heals.push((from, Heal::Part(node, from + each)));
                }
                true
            }
            Fault::Slow { most, for_ } => {
                cluster.sim.set_max_message_latency(most);
                self.heals.push((now + for_, Heal::Fast));
                true
            }
            Fault::Lossy { who, most, for_ } => {
                let node = self.whom(seen, who, mover)?;
                for other in self.others(node) {
                    cluster.sim.set_link_max_message_latency(name(node), name(other), most);
                }
                self.heals.push((now + for_, Heal::Sound(node)));
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
            Fault::BitTurned { who, local } => {
                let node = self.whom(seen, who, mover)?;
                !self.lost && self.turn_a_bit(cluster, seen, node, local)
            }
            Fault::Hung { who, for_ } => {
                let node = self.whom(seen, who, mover)?;
                let users = (1..=self.users).map(|user| link(&format!("user{user}"), &name(node)));
                let links = users.chain([link("reader", &name(node))]).chain(self.links(node)).collect();
                self.part(cluster, links, now + for_)
            }
            Fault::Apart { for_ } => {
                let master = name(self.master(seen)?);
                let others = seen.in_raft().into_iter().filter(|node| *node != master);
                let links = others.map(|node| link(&node, &master)).collect();
                self.part(cluster, links, now + for_)
            }
            Fault::SlowDisk { who, takes, for_ } => {
                let node = self.whom(seen, who, mover)?;
                cluster.places[node].machine.slow_down(takes);
                self.heals.push((now + for_, Heal::FastDisk(node)));
                true
            }
            Fault::DiskFull { who, for_ } => {
                let node = self.whom(seen, who, mover)?;
                cluster.places[node].machine.fill();
                self.heals.push((now + for_, Heal::Room(node)));
                true
            }
            Fault::Liar { who, for_ } => {
                let node = self.whom(seen, who, mover)?;
                wire::lie(cluster.sim.lookup(name(node)));
                self.heals.push((now + for_, Heal::Honest(node)));
                true
            }
            Fault::DiskLost { who, after } => {
                let node = self.whom(seen, who, mover)?;
                let may = !self.lost && !cluster.common.lock().one_is_gone;
                let can = may && !self.down.contains(&node) && seen.is_member(&name(node));
                if can {
                    self.lose_disk(cluster, node);
                    self.heals.push((now + after, Heal::Start(node)));
                }
                can
            }
        }
        .then_some(())
    }

    /// Which node a fault hits; `None` if there is none such now.
    fn whom(&self, seen: &Seen, who: Who, mover: Option<usize>) -> Option<usize> {
        match who {
            Who::Node(node) => Some(node),
            Who::Master => self.master(seen),
            Who::Mover(node) => Some(mover.unwrap_or(node)),
        }
    }

    /// What a node says reaches nobody, until then.
    fn silence(&mut self, cluster: &mut Cluster<'_>, node: usize, until: Duration) -> bool {
        // Links that are held carry nothing at all.
        let is_free = |other: &usize| !self.apart.contains_key(&link(&name(node), &name(*other)));
        let others: Vec<usize> = self.others(node).filter(is_free).collect();
        if others.is_empty() || self.one_way.contains_key(&node) {
            return false;
        }
        for other in &others {
            cluster.sim.partition_oneway(name(node), name(*other));
        }
        self.one_way.insert(node, others);
        self.heals.push((until, Heal::Hear(node)));
        true
    }
}
