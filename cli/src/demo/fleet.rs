//! The demo's nodes: real processes of this binary.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cut::{Waiter, tell};
use super::{processes, traffic};

/// The longest anything is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// What a command said.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) text: String,
}

struct Node {
    name: String,
    data: PathBuf,
    keeper: Option<Child>,
}

/// The nodes, in a folder that is removed with them.
pub(super) struct Fleet {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
    /// The node that was killed and has not answered since: its services run, and only a keeper can stop them.
    killed: Option<String>,
    waiter: Rc<Waiter>,
}

impl Fleet {
    /// So many nodes, `n1` and on, connected, with their voters made.
    pub(super) fn start(count: usize, waiter: Rc<Waiter>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tribune-demo-").tempdir()?;
        let mut fleet = Self { folder, nodes: Vec::new(), killed: None, waiter };
        for number in 1..=count {
            fleet.add(&format!("n{number}"))?;
        }
        fleet.wait("every node is connected and five are voters", || {
            let nodes = fleet.json(&["node", "list"])?;
            let items = nodes["items"].as_array().context("no nodes")?;
            let settled = items.iter().filter(|node| node["connected"] == true && node["role"] == "voter").count();
            Ok((settled == count).then_some(()))
        })?;
        Ok(fleet)
    }

    /// Runs this binary.
    pub(super) fn tribune(&self, args: &[&str]) -> Result<Said> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).env_remove("TRIBUNE_DATA").env_remove("TRIBUNE_PEER").env_remove("TRIBUNE_KEY").stdin(Stdio::null());
        let output = self.waiter.output(command)?;
        // What is said by the way comes first: it was said while the command did its work.
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        Ok(Said { code: output.status.code().unwrap_or(-1), text })
    }

    fn add(&mut self, name: &str) -> Result<()> {
        let data = self.folder.path().join(name);
        let place = data.display().to_string();
        let any = anywhere();
        let common = ["--data", &place, "--name", name, "--control", &any, "--data-address", &any];
        if self.nodes.is_empty() {
            done(self.tribune(&[&["init"], &common[..]].concat())?, 0)?;
        } else {
            let token = self.folder.path().join(format!("token-{name}")).display().to_string();
            self.run(&["token", "create", "--token-file", &token], 0)?;
            let first = self.json(&["node", "show", "n1"])?;
            let (address, peer) = (first["control_addresses"][0].as_str(), first["peer"].as_str());
            let peer = format!("{}/p2p/{}", address.context("n1 has no address")?, peer.context("n1 has no identity")?);
            done(self.tribune(&[&["join", "--peer", &peer, "--token-file", &token], &common[..]].concat())?, 0)?;
        }
        self.nodes.push(Node { name: name.to_owned(), data, keeper: None });
        self.run_again(name)
    }

    /// Runs a node that does not run.
    pub(super) fn run_again(&mut self, name: &str) -> Result<()> {
        let data = self.start_keeper(name)?;
        self.wait(&format!("{name} answers"), || Ok((self.tribune(&["status", "--data", &data])?.code == 0).then_some(())))?;
        self.killed.take_if(|killed| killed == name);
        Ok(())
    }

    /// Starts a node's keeper if it does not run; gives its data folder.
    fn start_keeper(&mut self, name: &str) -> Result<String> {
        let node = self.nodes.iter_mut().find(|node| node.name == name).context("no such node")?;
        let data = node.data.display().to_string();
        if node.keeper.is_some() {
            return Ok(data);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(node.data.with_extension("log"))?;
        let keeper = Command::new(std::env::current_exe()?)
            .args(["run", "--data", &data])
            // Ctrl-C is for the demo, which stops its nodes one way only.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        node.keeper = Some(keeper);
        Ok(data)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// The data folder of a node that runs.
    fn place(&self) -> Result<String> {
        let node = self.nodes.iter().find(|node| node.keeper.is_some()).context("no node runs")?;
        Ok(node.data.display().to_string())
    }

    /// A command at a node that runs; an error if it does not end with that code.
    pub(super) fn run(&self, args: &[&str], code: i32) -> Result<String> {
        let place = self.place()?;
        done(self.tribune(&[args, &["--data", &place]].concat())?, code)
    }

    /// The same, shown with what it says, but for the steps of nodes between the first and the last.
    pub(super) fn show(&self, args: &[&str], code: i32) -> Result<String> {
        self.show_where(args, code, |line| !is_step_between(line))
    }

    /// The same, shown with everything it says.
    pub(super) fn show_all(&self, args: &[&str], code: i32) -> Result<String> {
        self.show_where(args, code, |_| true)
    }

    fn show_where(&self, args: &[&str], code: i32, shown: impl Fn(&str) -> bool) -> Result<String> {
        let folder = self.folder.path().display().to_string() + "/";
        tell(&format!("$ tribune {}", args.join(" ").replace(&folder, "")))?;
        let text = self.run(args, code)?;
        for line in text.lines().filter(|line| shown(line)) {
            tell(&format!("  {}", line.replace(&folder, "")))?;
        }
        Ok(text)
    }

    /// A submission of an update that ends with this code, shown; gives the update's id.
    pub(super) fn submit(&self, args: &[&str], code: i32) -> Result<String> {
        let text = self.show(&[&["update", "submit"], args].concat(), code)?;
        let update = text.lines().find_map(|line| line.strip_prefix("submitted ")).context("no update was submitted")?;
        Ok(update.trim().to_owned())
    }

    /// The number of an update's ballots, which its user has just seen.
    pub(super) fn ballots(&self, update: &str) -> Result<String> {
        Ok(self.json(&["update", "show", update])?["ballot_revision"].to_string())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat(), 0)?;
        let line = text.lines().rev().find(|line| line.starts_with('{')).context("no JSON was printed")?;
        Ok(serde_json::from_str(line)?)
    }

    /// Where a process of the demo's service listens on a node: it says so in its log.
    pub(super) fn address(&self, node: &str, process: &str) -> Result<SocketAddr> {
        self.wait(&format!("{process} on {node} says where it listens"), || {
            let log = self.json(&["process", "logs", process, "--node", node])?;
            let lines = log["lines"].as_array().context("no lines")?;
            let last = lines.iter().rev().filter_map(Value::as_str).find_map(|line| line.split("listens on ").nth(1));
            Ok(last.and_then(|address| address.trim().parse().ok()))
        })
    }

    /// Waits until a node's process answers so.
    pub(super) fn answers(&self, node: &str, process: &str, what: &str) -> Result<()> {
        let said = self.wait(&format!("{process} on {node} answers with {what:?}"), || {
            let said = traffic::said(self.address(node, process)?);
            Ok(said.contains(what).then_some(said))
        })?;
        tell(&format!("  {process} on {node} answers: {}", said.trim()))
    }

    /// What a node and its services have written of late, for whoever looks for what went wrong there.
    pub(super) fn tell_logs(&self, name: &str) -> Result<()> {
        const LINES: usize = 400;
        let node = self.nodes.iter().find(|node| node.name == name).context("no such node")?;
        let mut files = vec![node.data.with_extension("log")];
        for entry in fs::read_dir(node.data.join("logs"))? {
            files.push(entry?.path());
        }
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            tell(&format!("\n{}:", file.strip_prefix(self.folder.path()).unwrap_or(file).display()))?;
            let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                tell(&format!("  {line}"))?;
            }
        }
        Ok(())
    }

    /// Waits until an update has ended.
    pub(super) fn has_ended(&self, update: &str) -> Result<()> {
        self.wait(&format!("{update} has ended"), || {
            Ok((self.json(&["update", "show", update])?["phase"] == "ended").then_some(()))
        })
    }

    /// Waits until a node has changed over in this update, then kills the master's keeper and agent with SIGKILL. Gives its name.
    pub(super) fn kill_master_during(&mut self, update: &str) -> Result<String> {
        self.wait("the first node has changed over", || {
            let shown = self.json(&["update", "show", update])?;
            let nodes = shown["nodes"].as_object().context("no nodes")?;
            Ok(nodes.values().any(|node| node["step"] == "settled").then_some(()))
        })?;
        let master = self.json(&["status"])?["master"].as_str().context("no master")?.to_owned();
        let node = self.nodes.iter_mut().find(|node| node.name == master).context("the master is no node of the demo")?;
        let Some(mut keeper) = node.keeper.take() else { bail!("the master does not run") };
        self.killed = Some(master.clone());
        // The agent first, so that no other is started.
        for agent in processes::agents(keeper.id())? {
            kill_process(agent, Signal::KILL)?;
        }
        keeper.kill()?;
        keeper.wait()?;
        Ok(master)
    }

    /// Kills everything of a node with SIGKILL: its keeper, its agent and what they have started. So a machine goes that loses its power.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name).context("no such node")?;
        if let Some(mut keeper) = node.keeper.take() {
            keeper.kill()?;
            keeper.wait()?;
        }
        processes::kill_all(&node.data)
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            let seen = look();
            if let Ok(Some(found)) = seen {
                return Ok(found);
            }
            if begun.elapsed() > LIMIT {
                let last = seen.err().map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("{what}: not within {LIMIT:?}{last}");
            }
            self.waiter.pause(Duration::from_millis(50))?;
        }
    }

    /// Stops all nodes as an operator does.
    pub(super) fn stop(&mut self) -> Result<()> {
        let keepers: Vec<Child> = self.nodes.iter_mut().filter_map(|node| node.keeper.take()).collect();
        for keeper in &keepers {
            if let Some(pid) = Pid::from_raw(i32::try_from(keeper.id())?) {
                kill_process(pid, Signal::TERM)?;
            }
        }
        for mut keeper in keepers {
            keeper.wait()?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Only when something failed is there still something to stop; that failure is what is told.
        self.waiter.heed_no_more();
        if let Some(killed) = self.killed.take() {
            let _ = self.run_again(&killed);
        }
        let _ = self.stop();
    }
}

/// Any free port of a loopback address that is the demo's own, since a node wants the port it was made with whenever it starts, and on 127.0.0.1 any
/// connection may have it by then. The address is 127.64.0.0 and the process id, which is below 2²² on Linux.
fn anywhere() -> String {
    format!("/ip4/{}/tcp/0", std::net::Ipv4Addr::from_bits(0x7f40_0000 + std::process::id() % (1 << 22)))
}

/// Whether this line of `update watch` is a node's step on its way.
fn is_step_between(line: &str) -> bool {
    let between = ["asked", "voted", "staged", "pending", "ready", "go", "started"];
    line.contains(": node ") && line.rsplit(": ").next().is_some_and(|last| between.contains(&last))
}

fn done(said: Said, code: i32) -> Result<String> {
    ensure!(said.code == code, "it ended with exit code {} and not {code}:\n{}", said.code, said.text);
    Ok(said.text)
}
