//! The keeper of a node: a small process without network that owns the node's child processes, their listening sockets and
//! their logs. Its one idea: it does so little that it hardly ever has to be replaced, so that the agent, which does everything
//! else, may crash, restart or be replaced without a running service noticing.
//!
//! [`run`] is the keeper, [`shim_main`] the first moments of each child. An agent is given its end of a socket as standard
//! input ([`take_agent_socket`]) and speaks [`protocol`] over it with [`wire`].
//!
//! Who may die, and what then:
//! - The agent: the keeper starts another, after a wait that doubles; services go on.
//! - The keeper: the agent ends, since its socket closes; services go on and write into their FIFOs. The next keeper, started by
//!   the operator, finds them by what is written on disk ([`protocol::KeeperStart::TookOver`]).
//! - All of them, or the machine: the next keeper begins a new run ([`protocol::KeeperStart::NodeRestart`]).

mod agent;
mod calls;
mod child;
mod children;
mod clock;
mod keeper;
mod launch;
mod logs;
mod process;
pub mod protocol;
pub mod restart;
mod shim;
mod signals;
pub mod sockets;
pub mod spec;
mod state;
mod takeover;
pub mod wire;

pub use clock::Moment;
pub use keeper::{AGENT_CANNOT, KeeperConfig, KeeperError, run};
pub use process::ProcessId;
pub use protocol::{
    AfterExit, Call, ChildState, ChildStatus, Event, Exit, FromKeeper, Hello, KeeperStart, MOST_MESSAGE, OLDEST_PROTOCOL,
    OpenSocket, PROTOCOL, Refusal, Reply, Request, Rest,
};
pub use restart::{RestartPolicy, RestartWhen};
pub use shim::{shim_main, take_agent_socket};
pub use sockets::{AddressError, SocketAddress, SocketError};
pub use spec::{ChildId, ChildSpec, FileSpec, LogSpec, SignalName, SocketSpec, SpecError, StopSpec};
pub use state::{FolderError, Hold};
