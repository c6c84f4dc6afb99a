//! Agent.
pub mod affected;
pub mod agent;
pub mod keeper;
pub mod launch;
pub mod local;
pub mod processes;
