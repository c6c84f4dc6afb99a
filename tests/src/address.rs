//! Where the nodes of a test listen.
//!
//! One idea: a node that is made without a port takes one that is free, and wants the same again whenever it starts. On 127.0.0.1 any
//! connection of another test may have taken it meanwhile; so each test has a loopback address of its own.

use std::net::Ipv4Addr;

/// This process's own loopback address: 127.64.0.0 and the process id, which is below 2²² on Linux.
pub fn loopback() -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f40_0000 + std::process::id() % (1 << 22))
}

/// Any free port there, as a multiaddress.
pub fn anywhere() -> String {
    format!("/ip4/{}/tcp/0", loopback())
}
