//! How processes talk to their node, and how the node asks them. Its one idea: everything that waits for a process has
//! a limit and a name, whether the process speaks the socket, has a hook, or knows nothing of Tribune.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`desk`] | the process socket: who is connected, what was asked of whom, what each said |
//! | [`ballot`] | one round of asking on this node, as pure data to data |
//! | [`outcome`] | tells every process that was asked how it ended, at least once |
//! | [`hooks`] | asks by running a command |
//! | [`notify`] | `sd_notify`: ready, stopping, watchdog, status |
//! | [`health`] | checks a module from outside |
//! | [`registered`] | finds a process that the node did not start |
//! | [`group`] | the number of the group that may open the socket |
//! | [`system`] | what the machine says of processes, or a simulation in its place |
//! | [`identity`], [`modules`] | which process, and which module it belongs to |

pub mod ballot;
mod command;
pub mod desk;
pub mod group;
pub mod health;
pub mod hooks;
pub mod identity;
pub mod modules;
pub mod notify;
pub mod outcome;
pub mod registered;
pub mod system;

pub use identity::ProcessId;
pub use modules::{ManagedModule, ManagedModules, ModulesNow};
