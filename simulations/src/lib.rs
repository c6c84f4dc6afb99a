//! A cluster in a bottle: whole clusters of real nodes on virtual time, every choice from one seed.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`run`] | one run of a seed: brings a cluster up, lets users and faults at it, heals it, looks whether all holds |
//! | [`cluster`], [`machine`] | nodes on simulated machines: keeper, processes, disk, wire |
//! | [`catalogue`], [`users`], [`history`] | software, the people who want it, and what they saw |
//! | [`plan`], [`faults`], [`chaos`] | what a run is made of: what goes wrong and when |
//! | [`story`] | a run that a person wrote, and how it is printed |
//! | [`sweep`] | many runs, and what they came to together |
//! | [`seen`], [`invariants`] | the cluster as it is at one moment, and what must hold |
//! | [`trace`] | what happened |

#![allow(missing_docs)]

pub mod catalogue;
pub mod chaos;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod machine;
pub mod plan;
pub mod run;
pub mod seen;
pub mod story;
pub mod sweep;
pub mod trace;
pub mod users;
