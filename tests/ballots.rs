//! Ballots on real nodes: processes that nobody but their owner started, objections that come late, and time that runs out.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::Value;
use tribune_tests::cli::tribune;
use tribune_tests::probe::{Entry, Said};
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

/// Two processes, of which `b` depends on nothing of `a`; both change with the version.
fn source(version: &str) -> PackageSource {
    PackageSource::new("p", version).probe("a", version, "").probe("b", version, "")
}

/// Submits a version for these nodes, as the admin, with these further arguments; gives the update's id.
fn submit(cluster: &Cluster, version: &str, nodes: &[&str], further: &[&str], code: i32) -> Result<String> {
    let file = source(version).build(cluster.folder())?.display().to_string();
    let targets: Vec<&str> = nodes.iter().flat_map(|node| ["--node", node]).collect();
    let args = [&["update", "submit", &file, "-o", "json"], &targets[..], further].concat();
    let submitted = cluster.admin(&cluster.nodes[0], &args)?.expect(code)?.json()?;
    Ok(submitted["update"].as_str().context("no update was submitted")?.to_owned())
}

fn show(node: &Node, update: &str) -> Result<Value> {
    node.json(&["update", "show", update])
}

fn heard(log: &[Entry], is: impl Fn(&Said) -> bool) -> bool {
    log.iter().any(|entry| is(&entry.said))
}

/// A program that knows nothing of Tribune, and the script that answers for it.
struct Backup {
    process: Child,
    hook: PathBuf,
    pid_file: PathBuf,
}

impl Backup {
    fn start(cluster: &Cluster) -> Result<Self> {
        let process = Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let (hook, pid_file) = (cluster.folder().join("hook"), cluster.folder().join("backup.pid"));
        let backup = Self { process, hook, pid_file };
        fs::write(&backup.pid_file, format!("{}\n", backup.process.id()))?;
        Ok(backup)
    }

    /// What its hook does from now on.
    fn answers(&self, script: &str) -> Result<()> {
        let fresh = self.hook.with_extension("new");
        fs::write(&fresh, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(fresh, &self.hook)?)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_process_that_knows_nothing_of_tribune_is_registered_and_vetoes_by_its_hook_also_after_agent_and_node_died() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let backup = Backup::start(&cluster)?;
    submit(&cluster, "1.0.0", &["n1"], &[], 0)?;
    let node = cluster.node("n1");
    let (pid_file, hook) = (backup.pid_file.display().to_string(), backup.hook.display().to_string());
    let register = ["process", "register", "backup", "--pid-file", &pid_file, "--hook", &hook];
    node.cli(&register)?.expect(1)?;
    let said = node.json(&[&register[..], &["--depends-on", "p/a@^1"]].concat())?;
    ensure!(said["state"] == "running" && said["pid"] == backup.process.id(), "{said}");
    let remote = cluster.admin(node, &[&register[..], &["--depends-on", "p/a"]].concat())?;
    ensure!(remote.code != 0, "a registration is for the node's own socket");

    let before = node.agent()?;
    node.kill_agent()?;
    eventually("another agent", || Ok(node.agent()?.filter(|agent| Some(*agent) != before)))?;
    eventually("it answers", || Ok((node.cli(&["node", "list"])?.code == 0).then_some(())))?;
    backup.answers("echo looking; echo \"tape $TRIBUNE_ROLE for $TRIBUNE_UPDATE, pid $TRIBUNE_PID\"; exit 1")?;
    let update = submit(&cluster, "1.1.0", &["n1"], &[], 3)?;
    let shown = show(node, &update)?;
    let reason = format!("tape affected for {update}, pid {}", backup.process.id());
    let vetoes = shown["vetoes"].as_array().context("no vetoes")?;
    ensure!(vetoes.len() == 1 && vetoes[0]["process"] == "backup" && vetoes[0]["reason"] == reason.as_str(), "{shown}");

    backup.answers("exit 0")?;
    node.cli(&["update", "decide", &update, "--ask-again"])?.expect(0)?;
    ensure!(node.watch(&update)? == 0, "it accepts now: {}", show(node, &update)?);

    cluster.nodes[0].kill_all()?;
    cluster.nodes[0].run()?;
    cluster.master()?;
    let node = cluster.node("n1");
    let shown = node.json(&["process", "show", "backup"])?;
    ensure!(shown["pid"] == backup.process.id() && shown["registered"]["depends_on"][0] == "p/a@^1", "{shown}");
    node.cli(&["process", "unregister", "backup"])?.expect(0)?;
    backup.answers("exit 1")?;
    submit(&cluster, "1.2.0", &["n1"], &[], 0)?;
    node.cli(&["process", "show", "backup"])?.expect(1)?;
    Ok(())
}

#[test]
fn a_veto_after_the_first_changeover_holds_the_update_until_the_rest_is_asked_again() -> Result<()> {
    let cluster = Cluster::start(2)?;
    submit(&cluster, "1.0.0", &["n1", "n2"], &["--strategy", "together"], 0)?;
    // The master comes last.
    let master = cluster.master()?;
    let (last, first) = (cluster.node(&master), if master == "n1" { "n2" } else { "n1" });
    last.tell("p/a", "slow-ready 3000")?;
    let update = submit(&cluster, "1.1.0", &["n1", "n2"], &["--detach"], 0)?;
    let pending = |said: &Said| matches!(said, Said::Pending { update: u } if *u == update);
    eventually("the last node's changeover is pending", || Ok(heard(&last.log("p/a"), pending).then_some(())))?;
    last.tell("p/a", &format!("late-veto {update} a call came in"))?;
    ensure!(last.watch(&update)? == 3, "{}", show(last, &update)?);
    let shown = show(last, &update)?;
    ensure!(shown["phase"] == "held" && shown["nodes"][first]["step"] == "settled", "{shown}");
    ensure!(shown["vetoes"][0]["node"] == master.as_str() && shown["vetoes"][0]["reason"] == "a call came in", "{shown}");
    let resumed = |said: &Said| matches!(said, Said::Resume { update: u } if *u == update);
    eventually("the others go on as before", || Ok(heard(&last.log("p/b"), resumed).then_some(())))?;

    last.tell("p/a", "slow-ready 0")?;
    last.cli(&["update", "decide", &update, "--ask-again"])?.expect(0)?;
    ensure!(last.watch(&update)? == 0, "{}", show(last, &update)?);
    ensure!(show(last, &update)?["outcome"] == "completed", "it is on both nodes");
    Ok(())
}

#[test]
fn a_process_that_was_restarted_since_it_accepted_is_asked_as_the_new_one_that_it_is() -> Result<()> {
    let cluster = Cluster::start(1)?;
    submit(&cluster, "1.0.0", &["n1"], &[], 0)?;
    let node = cluster.node("n1");
    let old = node.pid("p/a")?.context("p/a does not run")?;
    // While the other takes its time, the update goes no further.
    node.tell("p/b", "defer 3000 a moment")?;
    let update = submit(&cluster, "1.1.0", &["n1"], &["--detach"], 0)?;
    let answered = |entry: &Entry| entry.pid == old && matches!(&entry.said, Said::Answered { answer } if answer == "Accept");
    eventually("p/a accepts", || Ok(node.log("p/a").iter().any(answered).then_some(())))?;
    node.tell("p/a", "exit 1")?;
    let new = eventually("p/a runs again", || Ok(node.pid("p/a")?.filter(|pid| *pid != old)))?;
    node.tell("p/b", "accept")?;
    ensure!(node.watch(&update)? == 0, "{}", show(node, &update)?);
    let shown = show(node, &update)?;
    let ballots = shown["nodes"]["n1"]["ballots"].as_array().context("no ballots")?;
    let accepted = |pid: u32| ballots.iter().any(|ballot| ballot["pid"] == pid && ballot["answer"] == "accept");
    ensure!(accepted(new), "the new process was not asked: {shown}");
    let asked = |entry: &Entry| {
        entry.pid == new && matches!(&entry.said, Said::Proposal { proposal } if proposal["update"] == update.as_str())
    };
    ensure!(node.log("p/a").iter().any(asked), "the new process heard no proposal");
    Ok(())
}

#[test]
fn deferrals_end_as_a_veto_when_their_cap_has_passed_and_a_veto_that_nobody_decides_on_aborts() -> Result<()> {
    let cluster = Cluster::start(1)?;
    submit(&cluster, "1.0.0", &["n1"], &[], 0)?;
    let node = cluster.node("n1");
    node.tell("p/a", "defer 1000 a call is up")?;
    let update = submit(&cluster, "1.1.0", &["n1"], &["--max-defer", "2s", "--decide-within", "3s"], 3)?;
    let reason = "deferred for longer than the update may wait (2s); last reason: a call is up";
    let shown = show(node, &update)?;
    ensure!(shown["vetoes"][0]["process"] == "p/a" && shown["vetoes"][0]["reason"] == reason, "{shown}");
    let shown = eventually("nobody decides", || Ok(Some(show(node, &update)?).filter(|shown| shown["phase"] == "ended")))?;
    ensure!(shown["outcome"] == "aborted" && shown["reason"] == "nobody decided within 3s", "{shown}");
    for module in ["p/a", "p/b"] {
        let told = |said: &Said| matches!(said, Said::Outcome { update: u, outcome } if *u == update && outcome == "Aborted");
        eventually("who was asked hears the outcome", || Ok(heard(&node.log(module), told).then_some(())))?;
    }
    Ok(())
}

/// The user and group `nobody`, and a group that machines have and `nobody` is not in.
const NOBODY: u32 = 65534;
const SERVICES: (&str, u32) = ("daemon", 1);

/// Does something as `nobody`, who is in these groups besides.
fn as_nobody<T: Send>(groups: &[u32], work: impl FnOnce() -> T + Send) -> Result<T> {
    let nobody = || -> io::Result<T> {
        let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&groups)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        Ok(work())
    };
    // The system keeps users and groups for each thread: the rest of the test stays root.
    let done = std::thread::scope(|scope| scope.spawn(nobody).join());
    Ok(done.ok().context("a thread panicked")??)
}

/// What of a folder can be opened: the folder itself, its files and folders, and its sockets.
fn opened(folder: &Path, names: &[(String, bool)]) -> Vec<String> {
    let may = |(name, socket): &&(String, bool)| {
        let path = folder.join(name);
        let opened = if *socket { UnixStream::connect(path).map(drop) } else { fs::File::open(path).map(drop) };
        !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    names.iter().filter(may).map(|(name, _)| name.clone()).collect()
}

/// What is in a folder, and whether it is a socket.
fn names(folder: &Path) -> Result<Vec<(String, bool)>> {
    let mut names = vec![(String::new(), false)];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Where the probes make their own sockets.
        if entry.file_name() != "probes" {
            names.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_socket()));
        }
    }
    Ok(names)
}

#[test]
fn a_service_of_another_user_speaks_by_its_group_and_no_other_does_nor_reads_what_is_the_nodes() -> Result<()> {
    if !geteuid().is_root() {
        eprintln!("only root can be two users");
        return Ok(());
    }
    let mut cluster = Cluster::start_with(&[NodeOptions::with(&["--process-group", SERVICES.0])])?;
    fs::set_permissions(cluster.folder(), fs::Permissions::from_mode(0o711))?;
    submit(&cluster, "1.0.0", &["n1"], &[], 0)?;
    let node = cluster.node("n1");
    let names = names(&node.data)?;
    ensure!(names.iter().any(|(name, _)| name == "raft") && names.iter().any(|(name, _)| name == "admin.key"), "{names:?}");
    let with = as_nobody(&[SERVICES.1], || opened(&node.data, &names))?;
    ensure!(with == ["process.sock"], "the group can open {with:?}");
    let without = as_nobody(&[], || opened(&node.data, &names))?;
    ensure!(without.is_empty(), "anybody can open {without:?}");

    let pid_file = cluster.folder().join("service.pid");
    fs::write(&pid_file, std::process::id().to_string())?;
    let register = ["process", "register", "service", "--depends-on", "p/a", "--pid-file", &pid_file.display().to_string()];
    node.cli(&register)?.expect(0)?;
    let socket = node.data.join("process.sock");
    let mut stream = as_nobody(&[SERVICES.1], || UnixStream::connect(&socket))??;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut hear = |kind: &str| -> Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(lines.read_line(&mut line)? > 0, "hung up on before {kind}");
            let said: Value = serde_json::from_str(&line)?;
            if said["type"] == kind {
                return Ok(said);
            }
        }
    };
    writeln!(stream, r#"{{"type":"hello","protocol":1,"name":"service"}}"#)?;
    hear("welcome")?;
    let update = submit(&cluster, "1.1.0", &["n1"], &["--detach"], 0)?;
    let asked = hear("proposal")?;
    ensure!(asked["update"] == update.as_str(), "{asked}");
    writeln!(stream, r#"{{"type":"veto","update":"{update}","revision":{},"reason":"a call is up"}}"#, asked["revision"])?;
    ensure!(node.watch(&update)? == 3, "{}", show(node, &update)?);
    let shown = show(node, &update)?;
    ensure!(shown["vetoes"][0]["process"] == "service" && shown["vetoes"][0]["reason"] == "a call is up", "{shown}");

    let node = cluster.node_mut("n1");
    node.stop()?;
    let settings = fs::read_to_string(node.data.join("node.toml"))?;
    fs::write(node.data.join("node.toml"), settings.replace(SERVICES.0, "no-such-group"))?;
    let refused = tribune(&["run", "--data", &node.data.display().to_string()], "")?.expect(78)?.stderr;
    let why = "node.toml: process-group: there is no group no-such-group on this machine";
    ensure!(refused.contains(why), "{refused}");
    Ok(())
}
