//! Nodes as real processes, on this machine's loopback or each on a host of its own, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::address::anywhere;
use crate::cli::{Output, command_on, program, tribune, tribune_on};
use crate::net::{Host, Net};
use crate::probe::{self, Entry};
use crate::processes::{self, kill};
use crate::wait::eventually;

/// How a node is made.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Further arguments of `init` or `join`.
    pub args: Vec<String>,
}

impl NodeOptions {
    /// With these further arguments.
    pub fn with(args: &[&str]) -> Self {
        Self { args: args.iter().map(ToString::to_string).collect() }
    }
}

/// A node: its folder, and its keeper's process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Whether it may be a voter.
    voter: Voter,
    /// Where it runs; `None`: on this machine's loopback.
    host: Option<Host>,
    log: LogInTheEnd,
    keeper: Option<Child>,
}

/// What becomes of a node's log when the test is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogInTheEnd {
    /// It is printed, which shows it when the test fails.
    Printed,
    /// The test itself looks after it.
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voter {
    May,
    Never,
}

/// Some nodes that are a cluster. When it is dropped, no process of theirs is left.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order in which they joined. Dropped first: they write to the folder, and their logs are read there.
    pub nodes: Vec<Node>,
    folder: TempDir,
}

impl Cluster {
    /// So many nodes, `n1` and on, all running and in session with the master.
    pub fn start(count: usize) -> Result<Self> {
        Self::start_with(&vec![NodeOptions::default(); count])
    }

    /// The same, with options for each.
    pub fn start_with(options: &[NodeOptions]) -> Result<Self> {
        let mut cluster = Self::none()?;
        for options in options {
            cluster.add(options)?;
        }
        cluster.settle()?;
        Ok(cluster)
    }

    /// No node yet.
    pub fn none() -> Result<Self> {
        Ok(Self { nodes: Vec::new(), folder: tempfile::Builder::new().prefix("tribune-").tempdir()? })
    }

    /// One node on each host of a network.
    pub fn start_on(net: &Net, options: &NodeOptions) -> Result<Self> {
        let mut cluster = Self::none()?;
        for host in net.hosts() {
            cluster.add_on(Some(host), options)?;
        }
        cluster.settle()?;
        Ok(cluster)
    }

    /// Adds a node, and runs it.
    pub fn add(&mut self, options: &NodeOptions) -> Result<()> {
        self.add_on(None, options)
    }

    fn add_on(&mut self, host: Option<&Host>, options: &NodeOptions) -> Result<()> {
        let name = format!("n{}", self.nodes.len() + 1);
        let data = self.folder.path().join(&name);
        let place = data.display().to_string();
        let further: Vec<&str> = options.args.iter().map(String::as_str).collect();
        let at = host.map_or_else(anywhere, |host| format!("/ip4/{}/tcp/0", host.address));
        let common = [&["--data", &place, "--name", &name, "--control", &at, "--data-address", &at], &further[..]].concat();
        if self.nodes.is_empty() {
            tribune_on(host, &[&["init"], &common[..]].concat(), "")?.expect(0)?;
        } else {
            let token = self.nodes[0].cli(&["token", "create"])?.expect(0)?.stdout;
            let peer = self.nodes[0].address()?;
            tribune_on(host, &[&["join", "--peer", &peer, "--token-file", "-"], &common[..]].concat(), &token)?.expect(0)?;
        }
        let voter = if options.args.iter().any(|arg| arg == "never") { Voter::Never } else { Voter::May };
        let mut node = Node::at(&name, data);
        (node.voter, node.host) = (voter, host.cloned());
        node.run()?;
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until every node is in session with the master, and the voters are as many as they should be.
    pub fn settle(&self) -> Result<()> {
        let voters = match self.nodes.iter().filter(|node| node.voter == Voter::May).count() {
            0..3 => 1,
            3..5 => 3,
            _ => 5,
        };
        eventually("every node connected, and the voters made", || {
            let nodes = self.nodes[0].json(&["node", "list"])?;
            let items = nodes["items"].as_array().context("no items")?;
            let connected = items.iter().filter(|node| node["connected"] == true).count();
            let made = items.iter().filter(|node| node["role"] == "voter").count();
            ensure!(connected == self.nodes.len() && made == voters, "{connected} connected, {made} voters");
            Ok(Some(()))
        })
    }

    /// A folder for a test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of the test's own cluster")
    }

    /// The same, to stop or start it.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of the test's own cluster")
    }

    /// The name of the master, as the running nodes see it.
    pub fn master(&self) -> Result<String> {
        eventually("a master", || {
            for node in self.nodes.iter().filter(|node| node.keeper.is_some()) {
                if let Some(master) = node.json(&["status"])?["master"].as_str() {
                    return Ok(Some(master.to_owned()));
                }
            }
            Ok(None)
        })
    }

    /// A command of the admin, over the network, at a node that runs.
    pub fn admin(&self, at: &Node, args: &[&str]) -> Result<Output> {
        let key = self.nodes[0].data.join("admin.key").display().to_string();
        tribune_on(at.host(), &[args, &["--peer", &at.address()?, "--key", &key]].concat(), "")
    }

    /// A running node that is not the master.
    pub fn not_master(&self) -> Result<&Node> {
        let master = self.master()?;
        self.nodes.iter().find(|node| node.keeper.is_some() && node.name != master).context("no other node")
    }
}

impl Node {
    /// A node in this data folder, which does not run.
    pub fn at(name: &str, data: PathBuf) -> Self {
        let log = LogInTheEnd::Printed;
        Self { name: name.to_owned(), data, voter: Voter::May, host: None, log, keeper: None }
    }

    /// Another one on the host of this one, in a folder of its own, which does not run.
    pub fn beside(&self, data: PathBuf) -> Self {
        let mut node = Self::at(&self.name, data);
        (node.host, node.log) = (self.host.clone(), self.log);
        node
    }

    /// What becomes of its log when it is dropped.
    pub fn log_in_the_end(&mut self, log: LogInTheEnd) {
        self.log = log;
    }

    /// The host that it runs on, if it is not this machine.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Runs it, and waits until it answers.
    pub fn run(&mut self) -> Result<()> {
        self.begin()?;
        eventually(&format!("node {} answers", self.name), || Ok((self.cli(&["status"])?.code == 0).then_some(())))
    }

    /// Runs it.
    pub fn begin(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.data.with_extension("log"))?;
        let keeper = command_on(self.host.as_ref(), &program("tribune"))
            .args(["run", "--data", &self.data.display().to_string()])
            .env("TRIBUNE_HOLD_BACK", self.held_back())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.keeper = Some(keeper);
        Ok(())
    }

    /// How its keeper ended, if it did so by itself.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(keeper) = &mut self.keeper else { return Ok(None) };
        let status = keeper.try_wait()?;
        if status.is_some() {
            self.keeper = None;
        }
        Ok(status)
    }

    /// Whether it was started and not stopped since.
    pub fn is_run(&self) -> bool {
        self.keeper.is_some()
    }

    /// The folder of what it holds back as the master: while a file with the name of a command lies there, it does not propose that.
    pub fn held_back(&self) -> PathBuf {
        self.data.with_extension("hold")
    }

    /// A command on its own socket.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        tribune(&[args, &["--data", &self.data.display().to_string()]].concat(), "")
    }

    /// What a command that must succeed prints as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.cli(&[args, &["-o", "json"]].concat())?.expect(0)?.json()
    }

    /// Where others find it, with its identity.
    pub fn address(&self) -> Result<String> {
        let node = self.json(&["node", "show", &self.name])?;
        let address = node["control_addresses"][0].as_str().context("no address")?;
        let peer = node["peer"].as_str().context("no identity")?;
        Ok(format!("{address}/p2p/{peer}"))
    }

    /// Waits for an update's end, or for its waiting for a user; gives the exit code of `update watch`.
    pub fn watch(&self, update: &str) -> Result<i32> {
        Ok(self.cli(&["update", "watch", update, "--timeout", "90s"])?.code)
    }

    /// The number of an update's ballots, as they are now: what a user who forces it has seen.
    pub fn ballots(&self, update: &str) -> Result<String> {
        Ok(self.json(&["update", "show", update])?["ballot_revision"].to_string())
    }

    /// The process of a module: its pid, if it runs.
    pub fn pid(&self, module: &str) -> Result<Option<u32>> {
        let processes = self.json(&["process", "list"])?;
        let items = processes["items"].as_array().context("no items")?;
        let running = items.iter().find(|process| process["name"] == module && process["state"] == "running");
        Ok(running.and_then(|process| process["pid"].as_u64()).and_then(|pid| u32::try_from(pid).ok()))
    }

    /// What a probe wrote to its log.
    pub fn log(&self, module: &str) -> Vec<Entry> {
        probe::read_log(&self.data.join("logs").join(format!("{}.log", module.replace('/', "."))))
    }

    /// Tells the probe that a module runs as what to do, once it listens.
    pub fn tell(&self, module: &str, order: &str) -> Result<()> {
        eventually(&format!("{module} on {} obeys", self.name), || {
            let pid = self.pid(module)?.context("it does not run")?;
            probe::tell(&self.data.join("probes").join(pid.to_string()), order).map(Some)
        })
    }

    /// Kills its agent with SIGKILL. Its keeper starts another.
    pub fn kill_agent(&self) -> Result<()> {
        let agent = self.agent()?.context("the node has no agent")?;
        kill(agent);
        Ok(())
    }

    /// Kills its keeper with SIGKILL. Its agent ends by itself then, and what the keeper has started goes on; [`Node::run`] runs the node
    /// again.
    pub fn kill_keeper(&mut self) -> Result<()> {
        let mut keeper = self.keeper.take().context("the node does not run")?;
        // It may have ended by itself.
        let _ = keeper.kill();
        keeper.wait()?;
        Ok(())
    }

    /// Kills its agent, then its keeper, with SIGKILL. What the keeper has started goes on; [`Node::run`] runs the node again.
    pub fn kill_node_processes(&mut self) -> Result<()> {
        if let Some(agent) = self.agent()? {
            kill(agent);
        }
        self.kill_keeper()?;
        // On a slow machine the keeper has come to start another agent in between.
        let agents = processes::all()?.into_iter().filter(|process| process.is_agent() && process.belongs_to(&self.data));
        agents.for_each(|process| kill(process.pid));
        Ok(())
    }

    /// Stops its agent in the middle of whatever it does, until [`Node::resume_agent`].
    pub fn pause_agent(&self) -> Result<()> {
        self.signal_agent(Signal::STOP)
    }

    /// Lets its agent go on.
    pub fn resume_agent(&self) -> Result<()> {
        self.signal_agent(Signal::CONT)
    }

    fn signal_agent(&self, signal: Signal) -> Result<()> {
        processes::signal(self.agent()?.context("the node has no agent")?, signal);
        Ok(())
    }

    /// The pid of its agent.
    pub fn agent(&self) -> Result<Option<u32>> {
        let keeper = self.keeper.as_ref().context("the node does not run")?.id();
        Ok(processes::all()?.into_iter().find(|process| process.parent == keeper && process.is_agent()).map(|p| p.pid))
    }

    /// Kills keeper, agent and everything that the node has started, with SIGKILL.
    pub fn kill_all(&mut self) -> Result<()> {
        if self.is_run() {
            self.kill_keeper()?;
        }
        self.kill_rest()
    }

    /// Stops it as an operator does, with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut keeper) = self.keeper.take() {
            processes::signal(keeper.id(), Signal::TERM);
            keeper.wait()?;
        }
        Ok(())
    }

    fn kill_rest(&self) -> Result<()> {
        // A process that is being started while the others are killed is found in the next round.
        loop {
            let left: Vec<_> = processes::all()?.into_iter().filter(|process| process.belongs_to(&self.data)).collect();
            if left.is_empty() {
                return Ok(());
            }
            left.iter().for_each(|process| kill(process.pid));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever fails here has failed the test already.
        let _ = self.kill_all();
        if self.log == LogInTheEnd::Left {
            return;
        }
        // What a test prints is shown when it fails.
        let log = fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        eprintln!("--- log of {}\n{log}", self.name);
    }
}
