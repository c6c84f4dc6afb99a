//! Addresses as they are given, and as they are dialled: names looked up, peer ids cut off.

use std::collections::BTreeSet;
use std::net::IpAddr;

use libp2p::multiaddr::{Multiaddr, Protocol};

use super::access::MAX_ADDRESSES;

/// Addresses that one name may stand for.
const MAX_PER_NAME: usize = 4;

/// `address` without a `/p2p/…` at its end: the peer is always named beside it.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut plain = address.clone();
    if let Some(Protocol::P2p(_)) = plain.iter().last() {
        plain.pop();
    }
    plain
}

/// The addresses to dial for those that are known: at most [`MAX_ADDRESSES`], each once. Names are looked up; one that is not found is left out,
/// and `failures` says so.
pub(super) async fn resolve(known: impl IntoIterator<Item = Multiaddr>, failures: &mut Vec<String>) -> Vec<Multiaddr> {
    let known: BTreeSet<Multiaddr> = known.into_iter().map(|address| without_peer(&address)).collect();
    let mut found = BTreeSet::new();
    for address in known {
        match lookup(&address).await {
            Ok(addresses) => found.extend(addresses),
            Err(why) => failures.push(format!("{address}: {why}")),
        }
        if found.len() >= MAX_ADDRESSES {
            break;
        }
    }
    found.into_iter().take(MAX_ADDRESSES).collect()
}

async fn lookup(address: &Multiaddr) -> Result<Vec<Multiaddr>, String> {
    let mut parts = address.iter();
    let (name, wanted): (String, fn(&IpAddr) -> bool) = match parts.next() {
        Some(Protocol::Dns(name)) => (name.into_owned(), |_| true),
        Some(Protocol::Dns4(name)) => (name.into_owned(), IpAddr::is_ipv4),
        Some(Protocol::Dns6(name)) => (name.into_owned(), IpAddr::is_ipv6),
        _ => return Ok(vec![address.clone()]),
    };
    let rest: Multiaddr = parts.collect();
    let ips = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|e| format!("the name is not found: {e}"))?;
    let ips: BTreeSet<IpAddr> = ips.map(|socket| socket.ip()).filter(wanted).take(MAX_PER_NAME).collect();
    if ips.is_empty() {
        return Err("the name has no address of this kind".to_owned());
    }
    Ok(ips.into_iter().map(|ip| Multiaddr::from(ip).into_iter().chain(rest.iter()).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_and_peer_ids_cut_off() {
        let peer = libp2p::PeerId::random();
        let mut failures = Vec::new();
        let known = [
            format!("/ip4/127.0.0.1/tcp/9/p2p/{peer}").parse().unwrap(),
            "/dns4/localhost/tcp/9".parse().unwrap(),
            "/dns4/no-such-name.invalid/tcp/9".parse().unwrap(),
        ];
        let found = resolve(known, &mut failures).await;
        assert_eq!(found, ["/ip4/127.0.0.1/tcp/9".parse::<Multiaddr>().unwrap()]);
        assert_eq!(failures.len(), 1);
        assert!(failures[0].starts_with("/dns4/no-such-name.invalid/tcp/9: "), "{failures:?}");
    }
}
