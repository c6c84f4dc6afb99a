//! What a node finds out about itself: platform, processors, memory, kernel, and where it listens.

use std::collections::BTreeMap;
use std::fs;

use tribune_p2p::{Multiaddr, Network};
use tribune_raft_store::model::{CharacteristicKey, Facts, Platform};

use crate::settings::Settings;

/// The most addresses of each network that are told to others.
const MOST_ADDRESSES: usize = 16;
/// The longest value that is told.
const LONGEST_VALUE: usize = 256;

/// The version of Tribune that this build is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the node is like now, with where its networks listen.
pub fn facts(settings: &Settings, control: &Network, data: &Network) -> Facts {
    Facts {
        platform: settings.platform.clone(),
        discovered: discovered(&settings.platform),
        control_addresses: addresses(&settings.advertise_control, &control.listening()),
        data_addresses: addresses(&settings.advertise_data, &data.listening()),
        voter: settings.voter,
        version: VERSION.to_owned(),
    }
}

/// The addresses for others: those that are set, or else those it listens at. One that only this machine can reach is told only when
/// there is no other.
fn addresses(advertised: &[Multiaddr], listening: &[Multiaddr]) -> Vec<String> {
    let chosen = if advertised.is_empty() { listening } else { advertised };
    let mut all: Vec<String> = chosen.iter().map(Multiaddr::to_string).collect();
    all.sort();
    let local = |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    if all.iter().any(|address| !local(address)) {
        all.retain(|address| !local(address));
    }
    all.truncate(MOST_ADDRESSES);
    all
}

fn discovered(platform: &Platform) -> BTreeMap<CharacteristicKey, String> {
    let mut found = vec![
        ("cpus", std::thread::available_parallelism().map(|count| count.to_string()).ok()),
        ("memory-mib", memory_mib().map(|mib| mib.to_string())),
        ("kernel", Some(rustix::system::uname().release().to_string_lossy().into_owned())),
        ("hostname", Some(rustix::system::uname().nodename().to_string_lossy().into_owned())),
    ];
    if let Platform::Exactly { os, arch } = platform {
        found.extend([("os", Some(os.clone())), ("arch", Some(arch.clone()))]);
    }
    let usable = |value: &String| !value.is_empty() && value.len() <= LONGEST_VALUE && !value.chars().any(char::is_control);
    found.into_iter().filter_map(|(key, value)| Some((CharacteristicKey::new(key).ok()?, value.filter(usable)?))).collect()
}

fn memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_machine() {
        let found = discovered(&Platform::here());
        for key in ["cpus", "memory-mib", "kernel", "os", "arch"] {
            assert!(found.contains_key(&CharacteristicKey::new(key).unwrap()), "{key}: {found:?}");
        }
    }

    #[test]
    fn an_address_that_only_this_machine_reaches_is_told_only_when_there_is_no_other() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        let listening = parse(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(addresses(&[], &listening), ["/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(addresses(&[], &listening[..1]), ["/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(addresses(&parse(&["/dns4/n1.example/tcp/1"]), &listening), ["/dns4/n1.example/tcp/1"]);
    }
}
