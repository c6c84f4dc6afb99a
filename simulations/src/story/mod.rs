//! A cluster's story in some twenty lines: who wants what, what goes wrong and when, and what came of it, to be read by people and compared
//! with what it was.
//!
//! One idea: a line is one statement, carried out after the one before; `when STEP: FAULT` waits in the background for its step, and
//! `when STEP, TIME later: FAULT` so much longer.
//! `of uN` says which update is spoken of from then on, where that is not the last one that was submitted.
//! What is printed says what moved in the record, and no times, so that it changes only when the story does.
//!
//! ```text
//! # What the story shows.
//! nodes 3
//! package web 1.0.0
//! package web 1.1.0: vote veto
//! package page 1.0.0 needs web
//! installed web 1.0.0, page 1.0.0
//! submit web 1.1.0 on n1 n2, rolling, ephemeral, hold
//! when asking: kill the master for 2s
//! until vetoed
//! decide force
//! until ended
//! show
//! ```

mod parse;
pub mod tell;

use std::collections::BTreeSet;
use std::time::Duration;

use tribune_raft_store::model::{OnFailure, RolloutStrategy, UpdateId};

use crate::faults::{Fault, When};

/// A package of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// What its process does: lines of its script.
    pub script: String,
    /// Which package it depends on.
    pub needs: Option<String>,
}

/// An update that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Names and versions; none: the nodes go back.
    pub packages: Vec<(String, String)>,
    pub nodes: BTreeSet<usize>,
    pub strategy: RolloutStrategy,
    pub on_failure: OnFailure,
    pub ephemeral: bool,
    pub again: bool,
    pub skip_away: bool,
}

/// What a user decides about the update that is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Force,
    Abort,
    AskAgain,
    Only(BTreeSet<usize>),
    Cancel,
    Persist,
    Pause,
    Resume,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// The update that is spoken of is in a phase of this name.
    Phase(String),
    /// Nothing is under way, there is a master, and every node runs.
    Quiet,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Submit(Wish),
    /// Somebody wants what is refused.
    Refused(Wish),
    Decide(Choice),
    /// What follows speaks of this update, until another is submitted.
    Of(UpdateId),
    Fault(When, Fault),
    /// A node is taken out of the cluster.
    Remove(usize),
    /// A node whose disk was lost takes its own place.
    LetIn(usize),
    Until(Until),
    Wait(Duration),
    Heal,
    Show,
}

/// A statement, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: usize,
    pub text: String,
    pub statement: Statement,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub nodes: usize,
    /// Those that never vote.
    pub members: BTreeSet<usize>,
    pub packages: Vec<Package>,
    /// Names and versions that every node has at first.
    pub installed: Vec<(String, String)>,
    pub lines: Vec<Line>,
}
