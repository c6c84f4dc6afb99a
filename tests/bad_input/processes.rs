//! Processes on the node that break the rules of its socket, and hooks that never end. The node goes on for all others.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::{Cluster, PackageSource, eventually};

use crate::{memory, text};

/// The most that a node's memory may grow by, in KiB.
const GROWTH: u64 = 64 << 10;

/// A process of no module: this one.
struct Stranger {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Stranger {
    fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { lines: BufReader::new(stream.try_clone()?), stream })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        Ok(self.stream.write_all(format!("{line}\n").as_bytes())?)
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("no message: {line:?}"))
    }
}

/// Sends a line of 100 MB; how much of it was taken, and what was said to it.
fn flood(socket: &Path) -> Result<JoinHandle<(usize, String)>> {
    let mut stream = UnixStream::connect(socket)?;
    Ok(std::thread::spawn(move || {
        let block = vec![b'x'; 1 << 20];
        let mut written = 0;
        while written < 100 << 20 && stream.write_all(&block).is_ok() {
            written += block.len();
        }
        let mut answer = String::new();
        // It was hung up on: what was said before that is still there to be read, or the system has dropped it.
        let _ = stream.read_to_string(&mut answer);
        (written, answer)
    }))
}

#[test]
fn processes_that_break_the_rules_are_cut_off_and_an_update_goes_through_by_the_ballots_of_those_asked() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = &cluster.nodes[0];
    let version = |version: &str| {
        let source = PackageSource::new("p", version).probe("m", version, "ask = { how = \"socket\", within = \"30s\" }");
        source.build(cluster.folder()).map(|file| text(&file))
    };
    node.cli(&["update", "submit", &version("1.0.0")?, "--node", "n1"])?.expect(0)?;
    let pid = node.pid("p/m")?.context("p/m does not run")?;
    node.tell("p/m", "slow 3000")?;
    let agent = node.agent()?.context("no agent")?;
    let before = memory(agent)?;
    let socket = node.data.join("process.sock");

    // A process may have four connections.
    let floods = (0..2).map(|_| flood(&socket)).collect::<Result<Vec<_>>>()?;
    let mut half = Stranger::open(&socket)?;
    half.stream.write_all(b"{\"type\":\"hello\",\"proto")?;
    let submitted = node.json(&["update", "submit", &version("2.0.0")?, "--node", "n1", "--detach"])?;
    let update = submitted["update"].as_str().context("no update")?;
    eventually("p/m is asked", || Ok((node.json(&["update", "show", update])?["nodes"]["n1"]["step"] == "asked").then_some(())))?;
    let log = node.log("p/m");
    let asked = log.iter().rev().find_map(|entry| match &entry.said {
        tribune_tests::probe::Said::Proposal { proposal } => Some(proposal.clone()),
        _ => None,
    });
    let (proposed, revision) = match &asked {
        Some(asked) => (asked["update"].as_str().context("no update")?.to_owned(), asked["revision"].clone()),
        None => (update.to_owned(), 1.into()),
    };
    // This process says that it is p/m. Whom the system says it is counts.
    let mut liar = Stranger::open(&socket)?;
    liar.say(&format!(r#"{{"type":"hello","protocol":1,"name":"p/m","pid":{pid},"module":"p/m"}}"#))?;
    let welcome = liar.hear()?;
    ensure!(welcome["type"] == "welcome" && welcome["module"].is_null(), "{welcome}");
    let veto = format!(r#"{{"type":"veto","update":"{proposed}","revision":{revision},"pid":{pid},"reason":"not I"}}"#);
    for line in [&veto, &veto.replace(&proposed, "u99")] {
        liar.say(line)?;
        let refused = liar.hear()?;
        let why = refused["message"].as_str().unwrap_or_default();
        ensure!(refused["type"] == "error" && why.contains("was not asked about update"), "{refused}");
    }
    ensure!(node.watch(update)? == 0, "the update does not go through");
    let shown = node.json(&["update", "show", update])?;
    let ballots = shown["nodes"]["n1"]["ballots"].as_array().context("no ballots")?;
    ensure!(!shown.to_string().contains("not I"), "{shown}");
    ensure!(ballots.len() <= 1, "others than p/m have voted: {shown}");

    for flood in floods {
        let (written, answer) = flood.join().ok().context("a thread panicked")?;
        ensure!(written < 8 << 20, "{written} bytes were taken: {answer}");
        ensure!(answer.is_empty() || answer.contains("a line is longer than 65536 bytes"), "{answer}");
    }
    let said = half.hear()?;
    ensure!(said["message"].as_str().is_some_and(|why| why.starts_with("no hello within")), "{said}");
    let after = memory(agent)?;
    ensure!(after < before + GROWTH, "the agent had {before} KiB and has {after} KiB");
    ensure!(node.agent()? == Some(agent), "the agent was restarted");
    Ok(())
}

#[test]
fn a_hook_that_never_ends_is_killed_at_its_limit_with_all_it_started_and_counts_as_a_veto() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = &cluster.nodes[0];
    let started = cluster.folder().join("started");
    let script =
        format!("#!/bin/sh\nsleep 4711 &\necho $! > {0}.new; echo $$ >> {0}.new; mv {0}.new {0}\nwait\n", started.display());
    let hook = cluster.folder().join("may-i");
    std::fs::write(&hook, script)?;
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let version = |version: &str| {
        let ask = format!("run = [\"m\"]\nask = {{ how = \"hook {}\", within = \"1s\" }}", hook.display());
        let source = PackageSource::new("p", version).file("m", &format!("#!/bin/sh\n# {version}\nexec sleep 4712\n"), &ask);
        source.build(cluster.folder()).map(|file| text(&file))
    };
    node.cli(&["update", "submit", &version("1.0.0")?, "--node", "n1"])?.expect(0)?;
    let pid = node.pid("p/m")?.context("p/m does not run")?;
    let refused = node.cli(&["update", "submit", &version("2.0.0")?, "--node", "n1"])?;
    ensure!(refused.code != 0, "it went through");
    let shown = node.cli(&["update", "show", "u2"])?.expect(0)?.stdout;
    ensure!(shown.contains("hook did not end within 1s"), "{shown}");
    let pids = std::fs::read_to_string(&started).context("the hook was not run")?;
    for pid in pids.lines() {
        eventually(&format!("process {pid} of the hook is gone"), || {
            // One that nobody has asked after yet is dead as well.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })?;
    }
    ensure!(node.pid("p/m")? == Some(pid), "p/m was restarted");
    Ok(())
}
