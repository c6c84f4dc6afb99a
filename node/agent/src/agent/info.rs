//! What the handle is told: processes, logs, local storage. It only reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tribune_keeper::{ChildState, ChildStatus};
use tribune_messages::api::{LocalInfo, LogText, ProcessInfo};
use tribune_raft_store::model::{ProcessRef, Span};

use super::Request;
use super::journal::process_ref;
use super::registered::Asker;
use super::task::Task;
use super::watch;
use crate::launch::ChildLabel;
use crate::processes::ProcessId;

/// The most that is read of a log, in bytes.
const MOST_LOG: u64 = 1 << 20;

impl Task {
    /// Answers what the handle asks.
    pub(super) async fn answer(&mut self, request: Request) {
        // Whoever asked may have lost interest.
        match request {
            Request::Processes(answer) => {
                // What is known of those that this node did not start may be gone by.
                self.spawn_look(None, Asker::Processes(answer));
            }
            Request::Log(process, lines, answer) => {
                let file = self.log_file(&process);
                tokio::spawn(async move {
                    let read = match file {
                        Ok(file) => read_log(file, lines).await,
                        Err(why) => Err(why),
                    };
                    let _ = answer.send(read);
                });
            }
            Request::Local(answer) => {
                let _ = answer.send(self.local().await);
            }
            Request::Register(registration, answer) => self.register(*registration, answer).await,
            Request::Unregister(name, answer) => {
                let _ = answer.send(self.unregister(&name).await);
            }
            Request::LocalRegress(generation, force, answer) => self.local_regress(generation, force, answer).await,
            // The loop sees to it.
            Request::Stop(answer) => drop(answer),
        }
    }

    pub(super) async fn processes(&self) -> Vec<ProcessInfo> {
        // What is known may be a moment old: how long each has run is only the keeper's to say.
        let kids = self.children.list().await.unwrap_or_else(|_| self.state.kids.clone());
        let mut processes: Vec<_> = kids.iter().map(|kid| self.child_info(kid)).collect();
        let children = self.child_processes();
        for (process, connected) in &self.state.connected {
            let member = connected.module.is_some();
            if children.contains(process) || member || self.state.register.has(*process) {
                continue;
            }
            let name = connected.name.clone().unwrap_or_else(|| process.to_string());
            processes.push(ProcessInfo {
                process: Some(process_ref(&name, *process)),
                name,
                state: "running".into(),
                since: None,
                version: connected.version.clone(),
                endings: 0,
                said_hello: true,
                log: None,
                detail: Some("started elsewhere".into()),
                registered: None,
            });
        }
        processes.extend(self.registered_infos());
        processes
    }

    fn child_info(&self, kid: &ChildStatus) -> ProcessInfo {
        let ms = |ms: u64| Some(Span::from_millis(ms));
        let (state, since, detail) = match &kid.state {
            ChildState::Starting(_) => ("starting", None, None),
            ChildState::Running { for_ms, .. } => ("running", ms(*for_ms), None),
            ChildState::Stopping { kill_in_ms, .. } => {
                ("stopping", None, Some(format!("killed in {}", Span::from_millis(*kill_in_ms))))
            }
            ChildState::Restarting { in_ms, last } => {
                ("restarting", None, Some(format!("{last}; starts again in {}", Span::from_millis(*in_ms))))
            }
            ChildState::Stopped { last } => ("stopped", None, last.as_ref().map(ToString::to_string)),
            ChildState::Broken { exits, last } => ("broken", None, Some(format!("ended {exits} times; {last}"))),
        };
        let process = watch::process(kid);
        let unhealthy = self.state.watch.unhealthy(&kid.id);
        let reference = |process: ProcessId| -> ProcessRef { process_ref(&kid.id.key, process) };
        ProcessInfo {
            name: kid.id.key.clone(),
            state: state.into(),
            process: process.map(reference),
            since,
            version: kid.label.parse::<ChildLabel>().ok().map(|label| label.version.to_string()),
            endings: kid.endings,
            said_hello: process.is_some_and(|process| self.state.connected.contains_key(&process)),
            log: Some(kid.log.display().to_string()),
            detail: detail.or(unhealthy),
            registered: None,
        }
    }

    fn log_file(&self, process: &str) -> Result<PathBuf, String> {
        if let Some(kid) = self.state.kids.iter().find(|kid| kid.id.key == process) {
            return Ok(kid.log.clone());
        }
        // One that no longer runs may have left a log; its name is one of the manifest's, so it is safe in a path.
        let known = self.state.current.module(process).is_some()
            || self.until_restart().is_some_and(|software| software.modules.contains_key(process))
            || self.state.kept.values().any(|generation| generation.modules.contains_key(process));
        match process.split_once('/').filter(|_| known) {
            Some((package, module)) => Ok(self.folders.logs.join(format!("{package}.{module}.log"))),
            None => Err(format!("there is no process {process:?} on this node; `tribune process list` shows those there are")),
        }
    }

    async fn local(&self) -> LocalInfo {
        let mut manifests = BTreeMap::new();
        let numbers = self.state.kept.keys().copied().chain([self.state.current.number()]);
        for number in numbers {
            match self.storage.installed(number).await {
                Ok(installed) => manifests.extend(installed.packages().map(|stored| (stored.id, stored.text.clone()))),
                Err(error) => tracing::warn!(%error, number, "a generation cannot be shown"),
            }
        }
        let ephemeral = self.until_restart().cloned();
        if ephemeral.is_some() {
            let (software, _) = self.target();
            match self.read_software(software).await {
                Ok(runs) => manifests.extend(runs.packages().map(|stored| (stored.id, stored.text.clone()))),
                Err(error) => tracing::warn!(%error, %software, "what runs until a restart cannot be shown"),
            }
        }
        let mut failed = self.state.failed.clone();
        failed.extend(self.problems());
        LocalInfo {
            node: self.config.node.clone(),
            current: self.state.current.generation.clone(),
            ephemeral,
            kept: self.state.kept.clone(),
            manifests,
            open: self.state.updates.iter().map(|(update, open)| (*update, self.describe(open))).collect(),
            failed,
        }
    }

    /// What an update is waiting for here, since when.
    fn describe(&self, open: &super::task::Open) -> String {
        let now = self.now();
        let waits: Vec<_> = self.state.waits.iter().map(|(wait, since)| (wait.describe(), now.saturating_sub(*since))).collect();
        let mut text = open.journal.describe();
        if open.journal.runs().is_some() && !waits.is_empty() {
            let waits: Vec<_> = waits.iter().map(|(what, ms)| format!("{what} (for {} s)", ms / 1000)).collect();
            text.push_str(&format!("; waiting for {}", waits.join(", ")));
        }
        text
    }

    /// What keeps modules from running as they should, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let damaged =
            self.state.damaged.iter().map(|(module, why)| format!("module {module} is damaged and is not started: {why}"));
        let held = self.state.held.iter().map(|(module, (_, why))| format!("module {module} could not be started: {why}"));
        let broken = self.state.kids.iter().filter_map(|kid| match &kid.state {
            ChildState::Broken { exits, last } => Some(format!("{} ended {exits} times and is given up: {last}", kid.id.key)),
            _ => None,
        });
        let again = self.state.again.iter().map(|(_, why)| why.clone());
        damaged.chain(held).chain(broken).chain(self.state.register.problems()).chain(again).collect()
    }
}

async fn read_log(file: PathBuf, lines: u32) -> Result<LogText, String> {
    let shown = file.display().to_string();
    let read = tribune_p2p::blocking::run(move || tail(&file, lines)).await;
    match read {
        Ok(Ok(text)) => Ok(LogText { file: shown, text }),
        Ok(Err(error)) => Err(format!("the log {shown} cannot be read: {error}")),
        Err(_) => Err("the node is stopping".into()),
    }
}

/// The last lines of a file.
fn tail(path: &Path, lines: u32) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Nothing was written yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(MOST_LOG);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(MOST_LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let surplus = all.len().saturating_sub(lines as usize);
    let mut last = all[surplus..].join("\n");
    if !last.is_empty() {
        last.push('\n');
    }
    Ok(last)
}
