//! A network of namespaces: each host has an address and a cable of its own, to a switch in one more namespace.
//!
//! One idea: what one host sends another is cut on the sender's side, by writing down a wrong hardware address for the other. The packets
//! leave and nobody takes them, in that direction only, and neither side is told: as when a cable is broken somewhere between.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::processes;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// What the names of all of them begin with; then comes the process that made it.
const PREFIX: &str = "tribune-test-";
/// A hardware address that no host has.
const NOBODY: &str = "02:00:00:00:00:ff";

/// A host of a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    namespace: String,
    /// Its address. It is good in its network only.
    pub address: Ipv4Addr,
}

impl Host {
    /// A command that runs a program on this host.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMESPACES}/{}", self.namespace)).arg(program);
        command
    }

    /// Cuts what this host sends to another; what that one sends still arrives here.
    pub fn cut_to(&self, other: &Host) -> Result<()> {
        let other = other.address.to_string();
        ip(&["-n", &self.namespace, "neigh", "replace", &other, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"])
    }

    /// Mends what [`Host::cut_to`] cut.
    pub fn mend_to(&self, other: &Host) -> Result<()> {
        ip(&["-n", &self.namespace, "neigh", "del", &other.address.to_string(), "dev", "eth0"])
    }
}

/// A network. When it is dropped, also by a panic, nothing is left of it; what a killed test left, the next one takes away.
#[derive(Debug)]
pub struct Net {
    switch: String,
    hosts: Vec<Host>,
}

impl Net {
    /// Whether this machine lets a test have one; if not, why.
    pub fn possible() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make network namespaces".into());
        }
        ip(&["netns", "list"]).map_err(|error| format!("{error:#}"))
    }

    /// A network of so many hosts.
    pub fn start(hosts: u8) -> Result<Self> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        sweep()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let switch = format!("{name}-switch");
        ip(&["netns", "add", &switch])?;
        // From here on, what was made goes when it is dropped.
        let mut net = Self { switch, hosts: Vec::new() };
        ip(&["-n", &net.switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &net.switch, "link", "set", "br0", "up"])?;
        for number in 1..=hosts {
            net.plug_in(&name, number)?;
        }
        Ok(net)
    }

    fn plug_in(&mut self, name: &str, number: u8) -> Result<()> {
        let host = Host { namespace: format!("{name}-host{number}"), address: Ipv4Addr::new(10, 77, 0, number) };
        let (namespace, port) = (host.namespace.clone(), format!("port{number}"));
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(host.clone());
        let cable = ["link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", "name", &port, "netns", &self.switch];
        ip(&cable)?;
        ip(&["-n", &self.switch, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    /// Its hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().map(|host| &host.namespace).chain([&self.switch]) {
            if let Err(error) = remove(namespace) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Removes a namespace, and kills what still runs in it.
fn remove(namespace: &str) -> Result<()> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output().context("running ip")?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(processes::kill);
    ip(&["netns", "del", namespace])
}

/// Removes the networks of tests that were killed.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Another test may be sweeping as well.
            let _ = remove(&name);
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running ip, of the package iproute2")?;
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
