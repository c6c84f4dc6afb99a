//! `tribune run`: the keeper, which starts the agent, which is everything else.
//!
//! The keeper is this process and stays small; the agent is the same binary started again with a hidden command, so that it can crash or be
//! replaced without a running service noticing.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tribune_keeper::{AGENT_CANNOT, KeeperConfig};

use crate::data::DataFolder;
use crate::error::{NodeError, file_error};
use crate::facts::VERSION;
use crate::node::Node;
use crate::settings::Settings;

/// What is logged unless `TRIBUNE_LOG` says otherwise.
const DEFAULT_LOG: &str = "info,openraft=warn,libp2p=warn,libp2p_swarm=warn";
/// The environment variable that says what is logged.
const LOG_VARIABLE: &str = "TRIBUNE_LOG";

/// Runs the node in this folder until it is stopped (SIGTERM, SIGINT): the process of `tribune run`.
pub fn run(data: &Path) -> ExitCode {
    log_to_stderr();
    match keeper(data) {
        Ok(config) => match tribune_keeper::run(config) {
            Ok(code) => code,
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

/// Everything is looked at before anything is started, so that what is wrong is said at once, and to whom started it.
fn keeper(folder: &Path) -> Result<KeeperConfig, NodeError> {
    let data = DataFolder::open(folder)?;
    Settings::load(&data)?;
    let program = std::env::current_exe().map_err(file_error("find this program beside", folder))?;
    let command = |words: &[&std::ffi::OsStr]| {
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once(program.clone().into_os_string()).chain(words).collect::<Vec<OsString>>()
    };
    let agent = command(&["agent".as_ref(), "--data".as_ref(), data.root().as_os_str()]);
    let shim = command(&["shim".as_ref()]);
    Ok(KeeperConfig::new(data.keeper(), agent, shim, format!("tribune {VERSION}")))
}

/// Runs the agent of the node in this folder: the process that the keeper starts.
pub fn run_agent(data: &Path) -> ExitCode {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("agent").build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(async {
        let node = Node::start(data).await?;
        node.run().await
    });
    // Work that blocks (a file being read) must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_hopeless(&error) => {
            failed(&error);
            ExitCode::from(AGENT_CANNOT)
        }
        Err(error) => failed(&error),
    }
}

/// Whether no other start would go better, until a person has done something.
fn is_hopeless(error: &NodeError) -> bool {
    match error {
        NodeError::NodeAlready { .. }
        | NodeError::NoNode(_)
        | NodeError::Mixed { .. }
        | NodeError::Setting { .. }
        | NodeError::Identity(_)
        | NodeError::Listen { .. }
        | NodeError::PeerAddress { .. }
        | NodeError::Rejected(_)
        | NodeError::NotInView { .. }
        | NodeError::OtherCluster { .. }
        | NodeError::Held(_)
        | NodeError::Stopped(_)
        | NodeError::NotInRaft { .. }
        | NodeError::Recovery(_) => true,
        NodeError::File { .. }
        | NodeError::Network(_)
        | NodeError::Unreachable(_)
        | NodeError::NoAnswer(_)
        | NodeError::DamagedRaft(_)
        | NodeError::Start { .. }
        | NodeError::Api(_) => false,
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The program may log in its own way already.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).try_init();
}
