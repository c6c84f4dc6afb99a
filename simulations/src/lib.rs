//! Tribune.
