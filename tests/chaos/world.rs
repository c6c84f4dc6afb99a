//! The cluster as everybody but who breaks it sees it: where each node is, how to ask it, what runs on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tribune_tests::address::anywhere;
use tribune_tests::cli::{Output, tribune_on};
use tribune_tests::{Cluster, Host, Node, probe, processes};

use crate::chronicle::Chronicle;
use crate::software::{MARK, Software};

/// A node.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub data: PathBuf,
    host: Option<Host>,
    /// Its address with its identity, which another machine in its place has others of.
    address: Mutex<String>,
    /// Counts the beginning and the end of each time that everything of it was killed: while it is odd, that happens.
    pub power_cuts: AtomicU64,
}

/// The cluster.
#[derive(Debug)]
pub struct World {
    /// Its nodes.
    pub nodes: Vec<Place>,
    /// What is rolled out.
    pub software: Software,
    /// What has happened.
    pub chronicle: Chronicle,
    /// The file with the admin's key.
    pub key: String,
    violation: Mutex<Option<Violation>>,
    storm_over: AtomicBool,
}

/// Something that does not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What had to hold.
    pub sentence: &'static str,
    /// What was seen.
    pub seen: String,
}

/// A process of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its module, as `package/module`.
    pub module: String,
    /// Which bytes it was started from.
    pub mark: String,
    /// Its process id.
    pub pid: u32,
    /// With the pid, one process only.
    pub start_time: u64,
}

impl World {
    /// That of a cluster.
    pub fn of(cluster: &Cluster, software: Software, chronicle: Chronicle) -> Result<Self> {
        let place = |node: &Node| -> Result<Place> {
            Ok(Place {
                name: node.name.clone(),
                data: node.data.clone(),
                host: node.host().cloned(),
                address: Mutex::new(node.address()?),
                power_cuts: AtomicU64::new(0),
            })
        };
        let nodes = cluster.nodes.iter().map(place).collect::<Result<_>>()?;
        let key = cluster.nodes[0].data.with_file_name("admin.key");
        // The first node's disk may be full.
        std::fs::copy(cluster.nodes[0].data.join("admin.key"), &key)?;
        let key = key.display().to_string();
        Ok(Self { nodes, software, chronicle, key, violation: Mutex::default(), storm_over: AtomicBool::new(false) })
    }

    /// A question of this machine at a node's own socket.
    pub fn ask(&self, node: usize, args: &[&str], within: Duration) -> Result<Value> {
        let place = &self.nodes[node];
        let (data, within) = (place.data.display().to_string(), format!("{}ms", within.as_millis()));
        let args = [args, &["-o", "json", "--data", &data, "--timeout", &within]].concat();
        tribune_on(place.host.as_ref(), &args, "")?.expect(0)?.json()
    }

    /// The same, without looking how it ended.
    pub fn try_ask(&self, node: usize, args: &[&str], within: Duration) -> Result<Output> {
        let place = &self.nodes[node];
        let (data, within) = (place.data.display().to_string(), format!("{}ms", within.as_millis()));
        tribune_on(place.host.as_ref(), &[args, &["-o", "json", "--data", &data, "--timeout", &within]].concat(), "")
    }

    /// Any command on the host of a node.
    pub fn run_on(&self, node: usize, args: &[&str]) -> Result<Output> {
        tribune_on(self.nodes[node].host.as_ref(), &[args, &["-o", "json"]].concat(), "")
    }

    /// The first answer of any node, each asked in turn beginning with this one.
    pub fn ask_any(&self, first: usize, args: &[&str], within: Duration) -> Result<Value> {
        let mut last = None;
        for offset in 0..self.nodes.len() {
            match self.ask((first + offset) % self.nodes.len(), args, within) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        last.map_or_else(|| bail!("there is no node"), Err)
    }

    /// A command of the admin, who sits on this node's host.
    pub fn admin(&self, node: usize, args: &[&str], within: Duration) -> Result<Output> {
        let place = &self.nodes[node];
        let within = format!("{}ms", within.as_millis());
        let further = ["-o", "json", "--peer", &self.address(node), "--key", &self.key, "--timeout", &within];
        tribune_on(place.host.as_ref(), &[args, &further].concat(), "")
    }

    /// Where a node is found, with its identity.
    pub fn address(&self, node: usize) -> String {
        self.nodes[node].address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is another machine from now on.
    pub fn has_moved(&self, number: usize, node: &Node) -> Result<()> {
        *self.nodes[number].address.lock().unwrap_or_else(PoisonError::into_inner) = node.address()?;
        Ok(())
    }

    /// Any port on a node's host, as a multiaddress.
    pub fn any_port(&self, node: usize) -> String {
        self.nodes[node].host.as_ref().map_or_else(anywhere, |host| format!("/ip4/{}/tcp/0", host.address))
    }

    /// Everything of a node is killed, as when its power is cut.
    pub fn cut_power(&self, number: usize, node: &mut Node) -> Result<()> {
        self.nodes[number].power_cuts.fetch_add(1, Ordering::SeqCst);
        let killed = node.kill_all();
        self.nodes[number].power_cuts.fetch_add(1, Ordering::SeqCst);
        killed
    }

    /// The number of a node.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The master, as most of the nodes that answer say.
    pub fn master(&self) -> Option<usize> {
        let mut named = vec![0; self.nodes.len()];
        for status in self.statuses() {
            if let Some(master) = status.and_then(|status| self.number(status["master"].as_str()?)) {
                named[master] += 1;
            }
        }
        let (master, count) = named.into_iter().enumerate().max_by_key(|(_, count)| *count)?;
        (count > 0).then_some(master)
    }

    /// How many voters there are now, as the nodes that follow a master say: the fewest.
    pub fn voters(&self) -> usize {
        let counts = self.statuses().into_iter().flatten().filter(|status| status["master"].is_string());
        counts.filter_map(|status| status["voters"].as_array().map(Vec::len)).min().unwrap_or(0)
    }

    /// What each node says of itself, as far as it answers.
    pub fn statuses(&self) -> Vec<Option<Value>> {
        let ask = |node| self.ask(node, &["status"], Duration::from_millis(1500)).ok();
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..self.nodes.len()).map(|node| scope.spawn(move || ask(node))).collect();
            asked.into_iter().map(|asked| asked.join().ok().flatten()).collect()
        })
    }

    /// What runs of a node's modules, whatever the node says.
    pub fn services(&self, node: usize) -> Result<Vec<Service>> {
        let mut everywhere = self.services_everywhere()?;
        Ok(everywhere.swap_remove(node))
    }

    /// The same of each node.
    pub fn services_everywhere(&self) -> Result<Vec<Vec<Service>>> {
        let service = |process: &processes::Process| {
            let mark = process.args.iter().skip_while(|arg| *arg != MARK).nth(1)?.clone();
            let module = process.variable("TRIBUNE_MODULE")?.to_owned();
            Some(Service { module, mark, pid: process.pid, start_time: process.start_time })
        };
        let ours = processes::those(|args| args.iter().any(|arg| arg == MARK))?;
        let of = |place: &Place| {
            let mut services: Vec<_> =
                ours.iter().filter(|process| process.belongs_to(&place.data)).filter_map(service).collect();
            services.sort_by(|a, b| (&a.module, a.pid).cmp(&(&b.module, b.pid)));
            services
        };
        Ok(self.nodes.iter().map(of).collect())
    }

    /// Tells what a node runs of a module what to do.
    pub fn tell(&self, node: usize, module: &str, order: &str) -> Result<()> {
        let services = self.services(node)?;
        self.tell_service(node, services.iter().find(|service| service.module == module).context("it does not run")?, order)
    }

    /// The same to a process.
    pub fn tell_service(&self, node: usize, service: &Service, order: &str) -> Result<()> {
        probe::tell(&self.nodes[node].data.join("probes").join(service.pid.to_string()), order)
    }

    /// What does not hold, if something does not.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something does not hold: the storm ends. The first counts.
    pub fn violated(&self, sentence: &'static str, seen: String) {
        self.chronicle.note(format!("DOES NOT HOLD: {sentence}: {seen}"));
        self.violation.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Violation { sentence, seen });
        self.end_storm();
    }

    /// Whether users and faults are to end.
    pub fn is_calm(&self) -> bool {
        self.storm_over.load(Ordering::Relaxed)
    }

    /// Users and faults are to end.
    pub fn end_storm(&self) {
        self.storm_over.store(true, Ordering::Relaxed);
    }

    /// They may begin.
    pub fn begin_storm(&self) {
        self.storm_over.store(false, Ordering::Relaxed);
    }

    /// Sleeps for so long, less if the storm ends.
    pub fn sleep(&self, time: Duration) {
        let until = std::time::Instant::now() + time;
        while !self.is_calm() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.nodes[0].data.parent().unwrap_or(Path::new("/"))
    }
}
