//! Why a command was not done. One idea: every error becomes one sentence of what happened and one of what to do.

use std::fmt::Display;

use tribune_messages::api::ApiError;
use tribune_node::client::ClientError;
use tribune_raft_store::command::Rejection;
use tribune_raft_store::model::Role;

use crate::exit::Exit;
use crate::output::words;

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How the process ends.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// What to do; empty: `what` says it already.
    pub todo: String,
    /// More, one sentence each: the blockers of a plan, the vetoes of a regress.
    pub details: Vec<String>,
}

/// A command's end.
pub type Done<T = Exit> = Result<T, Problem>;

impl Problem {
    /// An error like any other.
    pub fn new(what: impl Display, todo: impl Into<String>) -> Self {
        Self::with(Exit::Error, what, todo)
    }

    /// An error with an exit code of its own.
    pub fn with(exit: Exit, what: impl Display, todo: impl Into<String>) -> Self {
        Self { exit, what: what.to_string(), todo: todo.into(), details: Vec::new() }
    }

    /// Something that does not exist was named.
    pub fn unknown(kind: &str, name: impl Display, there_are: &[String]) -> Self {
        let what = format!("there is no {kind} {name}");
        let todo = match there_are {
            [] => format!("there is no {kind} at all yet"),
            all if all.len() <= 20 => format!("there are: {}", all.join(", ")),
            all => format!("there are {}, such as: {}", all.len(), all[..20].join(", ")),
        };
        Self::new(what, todo)
    }

    /// The same, with more sentences.
    pub fn detailed(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

/// An error that says by itself what would be right.
pub fn plain(error: impl Display) -> Problem {
    Problem::new(error, "")
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) => error.into(),
            ClientError::Socket { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Problem::new(
                &error,
                "run the command as root or as the user the node runs as, or speak to a peer with --peer and --key",
            ),
            ClientError::Socket { .. } => Problem::with(
                Exit::NoAnswer,
                &error,
                "start the node with `tribune run`, name its folder with --data, or speak to a peer with --peer and --key",
            ),
            ClientError::Unreachable { .. } => {
                Problem::with(Exit::NoAnswer, &error, "check the address given with --peer, and that a node runs there")
            }
            ClientError::Refused { .. } => {
                Problem::new(&error, "an admin lets a key in with `tribune admin add`; `tribune admin key FILE` prints it")
            }
            ClientError::TimedOut { .. } => Problem::with(Exit::NoAnswer, &error, ASK_AGAIN),
            ClientError::Lost(_) => Problem::with(Exit::NoAnswer, &error, ASK_AGAIN),
            ClientError::Unexpected(_) => Problem::new(&error, "use the same version of Tribune here and there"),
            other => plain(other),
        }
    }
}

const ASK_AGAIN: &str =
    "look with `tribune status` and `tribune update list` what was done, then try again; --timeout waits longer";

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NoMaster { .. } => Problem::with(
                Exit::NoAnswer,
                &error,
                "a majority of the voters must be up and reach each other; `tribune status` names them",
            ),
            ApiError::Removed => Problem::new(&error, "speak to a node of the cluster with --peer and --key"),
            ApiError::Timeout { .. } => Problem::with(Exit::NoAnswer, &error, ASK_AGAIN),
            ApiError::Rejected(rejection) => (*rejection).into(),
            ApiError::Vetoed { vetoes } => Problem::with(
                Exit::Undecided,
                "processes vetoed",
                "try again when they agree, or go past them with --force --why TEXT",
            )
            .detailed(vetoes),
            ApiError::Forbidden { .. } => {
                Problem::new(&error, "use a key of that role with --peer and --key, or the node where the cluster was made")
            }
            ApiError::NotFound { .. } | ApiError::NotUploaded { .. } | ApiError::Bad { .. } | ApiError::Failed { .. } => {
                plain(error)
            }
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Blocked { plan } => {
                let blockers: Vec<String> = plan.blockers.iter().map(ToString::to_string).collect();
                let what = format!("the plan has {}, and nothing was done", words::count(blockers.len(), "blocker"));
                Problem::with(Exit::Blocked, what, "remove what blocks it and submit it again").detailed(blockers)
            }
            Rejection::Role { name, has, needs } => Problem::new(
                format!("{name} is {} and this needs {}", words::role(has), words::role(needs)),
                match needs {
                    Role::Admin => "use an admin's key with --peer and --key, or the node where the cluster was made",
                    _ => "use a key of that role with --peer and --key; an admin gives one with `tribune admin add`",
                },
            ),
            Rejection::Pinned { package, needed_by } => Problem::new(
                format!("{package} stays in the package store: it is needed"),
                "remove it when nothing needs it any more",
            )
            .detailed(needed_by),
            Rejection::TooFewCopies { .. } => {
                Problem::with(Exit::NoAnswer, &rejection, "bring the voters back that are away, then publish again")
            }
            other => plain(other),
        }
    }
}
