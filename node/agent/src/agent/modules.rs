//! From what is installed to what should run: the children of a generation, how each is started, checked and replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tribune_keeper::{ChildId, ChildSpec};
use tribune_raft_store::model::{Health, Module, Platform};

use super::supervise::Wanted;
use super::task::{Stuck, Task};
use super::watch::{self, Check};
use crate::affected::{start_order, touched};
use crate::launch::{self, ChildLabel, Folders, Launch, LaunchError};
use crate::local::{Installed, LocalError, Software};
use crate::processes::health::{HealthCheck, Probe};

/// The variable with the path of the notification socket, which programs written for systemd know.
const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";
/// The variable with the path of the file in which a process finds what the one before it handed over.
const STATE_VARIABLE: &str = "TRIBUNE_STATE";
/// How long one check may take at least, and at most.
const CHECK_WITHIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The process socket of a node.
pub(super) fn process_socket(data: &std::path::Path) -> PathBuf {
    data.join("process.sock")
}

/// The notification socket of a node.
pub(super) fn notify_socket(data: &std::path::Path) -> PathBuf {
    data.join("notify.sock")
}

/// Where processes find what those before them handed over.
pub(super) fn state_folder(data: &std::path::Path) -> PathBuf {
    data.join("state")
}

/// Where things are on a node with this data folder.
pub(super) fn folders(data: &std::path::Path) -> Folders {
    Folders {
        local: data.join("local"),
        ephemeral: data.join("ephemeral"),
        logs: data.join("logs"),
        process_socket: process_socket(data),
        home: data.join("home"),
    }
}

impl Task {
    /// How a module of a generation is started here.
    pub(super) fn launch<'a>(&'a self, installed: &'a Installed, key: &'a str, instance: u64) -> Launch<'a> {
        Launch {
            installed,
            key,
            instance,
            folders: &self.folders,
            machine: &self.machine,
            runners: &self.config.runners,
            node: &self.config.node,
        }
    }

    /// The child that runs a module.
    pub(super) fn spec_of(&self, installed: &Installed, key: &str, instance: u64) -> Result<Option<ChildSpec>, LaunchError> {
        let mut spec = launch::child_spec(&self.launch(installed, key, instance))?;
        let more = [(NOTIFY_VARIABLE, notify_socket(&self.config.data)), (STATE_VARIABLE, self.state_file(key))];
        for (variable, path) in more {
            if let (Some(spec), Some(path)) = (&mut spec, path.to_str()) {
                spec.env.insert(variable.to_owned(), path.to_owned());
            }
        }
        Ok(spec)
    }

    /// What a child may run from; read once.
    pub(super) async fn software(&mut self, software: Software) -> Result<Arc<Installed>, LocalError> {
        if let Some(known) = self.state.software.get(&software) {
            return Ok(known.clone());
        }
        let installed = Arc::new(self.read_software(software).await?);
        self.state.software.insert(software, installed.clone());
        Ok(installed)
    }

    /// What a child may run from, as it is on disk.
    pub(super) async fn read_software(&self, software: Software) -> Result<Installed, LocalError> {
        match software {
            Software::Generation(number) => self.storage.installed(number).await,
            Software::Ephemeral(update, number) => self.ephemeral.installed(update, number).await,
        }
    }

    /// What should run of a generation, in the order in which it starts. Damaged modules should not.
    pub(super) async fn wanted(&mut self, target: &Installed, restarted: &BTreeSet<ChildId>) -> Result<Vec<Wanted>, Stuck> {
        let runs: BTreeSet<String> = target
            .modules()
            .filter(|module| !module.module.run.is_empty() && !self.state.damaged.contains_key(module.key))
            .map(|module| module.key.to_owned())
            .collect();
        let order = start_order(target, &runs);
        let mut wanted: Vec<Wanted> = Vec::new();
        for key in &order {
            let Some(found) = target.module(key) else { continue };
            let own = &found.package.manifest.name;
            let needed = found
                .module
                .depends_on
                .iter()
                .map(|dependency| format!("{}/{}", dependency.package.as_ref().unwrap_or(own), dependency.module));
            // Only those that come earlier in the order: so there is no cycle.
            let after = needed.filter(|needed| wanted.iter().any(|want| want.module == *needed)).collect();
            wanted.push(Wanted {
                module: key.clone(),
                labels: self.labels_that_do(target, key).await?,
                strategy: found.module.changeover.strategy,
                drain_within: found.module.changeover.drain_within,
                after,
                restarted: restarted.iter().filter(|child| child.key == *key).cloned().collect(),
            });
        }
        Ok(wanted)
    }

    /// The labels of the children of a module that run the same as the target has.
    async fn labels_that_do(&mut self, target: &Installed, key: &str) -> Result<BTreeSet<String>, Stuck> {
        let labels: Vec<String> = self.state.kids.iter().filter(|kid| kid.id.key == key).map(|kid| kid.label.clone()).collect();
        let mut good = BTreeSet::new();
        for label in labels {
            let Ok(parsed) = label.parse::<ChildLabel>() else { continue };
            let same = match self.software(parsed.software).await {
                Ok(other) => other.module(key).is_some() && !touched(&other, target).replaced.contains(key),
                // Its generation is gone: its bytes are what can be compared.
                Err(LocalError::NoGeneration(_)) => {
                    target.module(key).is_some_and(|module| module.module.signature == parsed.signature)
                }
                Err(error) => return Err(error.into()),
            };
            if same {
                good.insert(label);
            }
        }
        Ok(good)
    }

    /// The checks of these children, as the generation they should be of says.
    pub(super) fn checks(&self, target: &Installed, keys: &BTreeSet<String>) -> BTreeMap<ChildId, Check> {
        let mut checks = BTreeMap::new();
        for kid in self.state.kids.iter().filter(|kid| keys.contains(&kid.id.key) && watch::running(kid).is_some()) {
            let of = kid.label.parse::<ChildLabel>().ok();
            // An old child beside a new one is not checked: what it says is no more of interest.
            let Some(module) = target.module(&kid.id.key) else { continue };
            if of.is_none_or(|label| label.signature != module.module.signature) {
                continue;
            }
            if let Some(check) = self.check_of(target, &kid.id.key, module.module) {
                checks.insert(kid.id.clone(), check);
            }
        }
        checks
    }

    fn check_of(&self, target: &Installed, key: &str, module: &Module) -> Option<Check> {
        let health = module.health.as_ref()?;
        let every = health.every.as_duration().max(Duration::from_millis(100));
        let within = every.clamp(CHECK_WITHIN.0, CHECK_WITHIN.1);
        let probe = self.probe_of(target, key, health)?;
        Some(Check { check: HealthCheck { probe, within }, every })
    }

    fn probe_of(&self, target: &Installed, key: &str, health: &Health) -> Option<Probe> {
        if let Some(url) = &health.http {
            return match url.parse() {
                Ok(url) => Some(Probe::Http(url)),
                Err(error) => {
                    tracing::warn!(module = key, %error, "the module is not checked");
                    None
                }
            };
        }
        if let Some(address) = health.tcp {
            return Some(Probe::Tcp(address.to_string()));
        }
        if health.exec.is_empty() {
            return None;
        }
        let command = launch::command(&self.launch(target, key, 0), &health.exec).ok()?;
        let words = [command.program].into_iter().chain(command.args).collect();
        Some(Probe::Exec { command: words, folder: command.folder, environment: command.env.into_iter().collect() })
    }
}

/// The platform of the machine itself.
pub(super) fn machine() -> Platform {
    Platform::here()
}
