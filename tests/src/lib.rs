//! What the whole-system tests share: clusters of real node processes, packages made on the spot, and probes to roll out.

pub mod probe;
