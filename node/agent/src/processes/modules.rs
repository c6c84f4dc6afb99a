//! Which module a process belongs to. Its one idea: **a module's main process and the members of its process group
//! speak for the module**, each in its own name.
//!
//! The node starts every module in a process group of its own, so workers and wrapper scripts are members without doing
//! anything. A process that leaves the group (a daemon that calls `setsid`) is no longer one; it may still say `hello`
//! and is then a registered process. Membership is judged when the process speaks, and only while the module's main
//! process is the group's leader, since later the group's number may belong to someone else.
//! This keeps honest programs apart: those of one user could stop or trace each other anyway.

use std::sync::Arc;

use tokio::sync::watch;

use super::identity::{ProcessId, Sighting};

/// One module process that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedModule {
    /// The module, as `package/module`.
    pub module: String,
    /// Its main process, the leader of its process group.
    pub main: ProcessId,
}

/// The module processes that run now: whoever starts and stops them publishes each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManagedModules(pub Vec<ManagedModule>);

/// Where the module processes that run now can be read.
pub type ModulesNow = watch::Receiver<Arc<ManagedModules>>;

impl ManagedModules {
    /// The module that this process belongs to.
    #[must_use]
    pub fn of(&self, process: &Sighting) -> Option<&ManagedModule> {
        self.0.iter().find(|module| module.main == process.id || module.main.pid == process.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_process_and_group_belong_to_the_module_and_a_recycled_pid_does_not() {
        let id = |pid, start_time| ProcessId { pid, start_time };
        let modules = ManagedModules(vec![ManagedModule { module: "billing/billingd".into(), main: id(10, 100) }]);
        let of = |pid, start_time, group| modules.of(&Sighting { id: id(pid, start_time), group }).map(|m| m.main.pid);
        assert_eq!(of(10, 100, 10), Some(10));
        assert_eq!(of(11, 105, 10), Some(10), "a worker");
        assert_eq!(of(12, 105, 12), None, "a stranger");
        assert_eq!(of(10, 101, 9), None, "the pid of an ended module, given to someone else");
    }
}
