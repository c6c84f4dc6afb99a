//! The JSON documents. One idea: they are types of their own, so that a change inside Tribune never changes by accident what
//! scripts read. Every document and field is described in `docs/JSON.md`.
//!
//! Times are milliseconds since the Unix epoch and end in `_at`; lengths of time are milliseconds and end in `_ms`.

mod disaster;
mod done;
mod fleet;
mod local;
mod package;
mod plan;
mod update;

use serde::Serialize;

use crate::problem::Problem;

pub use disaster::{BackupView, FsckView, RecoveredView, RestoredView};
pub use done::{
    BuiltView, DoneView, InitialisedView, JoinedView, KeyView, NeededView, PublicationView, PublishedPackage, RetainedView,
    SubmittedView, TokenView,
};
pub use fleet::{ClassView, EventView, LogView, NodeView, PrincipalView, ProcessView, SettingsView, StatusView, raft_role};
pub use local::{GenerationView, LocalView};
pub use package::{FileView, PackageView};
pub use plan::{PlanView, UnmetView};
pub use update::{SummaryView, UpdateView};

/// The version of all documents. It is raised when a field goes or changes its meaning, not when one is added.
pub const FORMAT: u32 = 1;

/// A document: its format and name, then its fields.
#[derive(Debug, Serialize)]
pub struct Document<T> {
    format: u32,
    document: &'static str,
    #[serde(flatten)]
    body: T,
}

impl<T: Serialize> Document<T> {
    /// A document of this name.
    pub fn new(document: &'static str, body: T) -> Self {
        Self { format: FORMAT, document, body }
    }

    /// The document on one line.
    pub fn to_line(&self) -> String {
        // The views have only strings as keys, and nothing whose encoding can fail.
        serde_json::to_string(self).expect("a view is always JSON")
    }
}

/// Many of something, under a name.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Many<T> {
    /// How many there are.
    pub count: usize,
    /// All of them.
    pub items: Vec<T>,
}

impl<T> FromIterator<T> for Many<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let items: Vec<T> = items.into_iter().collect();
        Self { count: items.len(), items }
    }
}

/// Why a command was not done; on standard error.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ErrorView {
    exit: u8,
    what: String,
    todo: String,
    details: Vec<String>,
}

impl ErrorView {
    /// The view of a problem.
    pub fn of(problem: &Problem) -> Self {
        let Problem { exit, what, todo, details } = problem;
        Self { exit: exit.number(), what: what.clone(), todo: todo.clone(), details: details.clone() }
    }
}

/// A name in documents: as serde writes a field-less enum, with underscores.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('-', "_"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
