//! The package store: what is kept, fetched, and forgotten.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use tribune_p2p::transfer::serve_blobs;
use tribune_p2p::{AllowList, Identity, Multiaddr, Network, NetworkConfig, PeerId};
use tribune_raft_store::model::Signature;

use super::*;

struct Host {
    store: PackageStore,
    network: Network,
    _folder: TempDir,
}

async fn host() -> Host {
    let loopback: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let network = Network::start(&Identity::generate(), NetworkConfig::new("data", [loopback])).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = PackageStore::open(folder.path(), network.clone(), 0).await.unwrap();
    serve_blobs(&network, store.blobs().clone()).unwrap();
    Host { store, network, _folder: folder }
}

async fn pair() -> (Host, Host) {
    let (a, b) = (host().await, host().await);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let mut list = AllowList::new();
        list.add_member(other.network.peer_id(), other.network.listening());
        one.network.set_allowed(list);
    }
    (a, b)
}

async fn put(host: &Host, bytes: &'static [u8]) -> (Signature, u64) {
    let imported = host.store.blobs().import(bytes, u64::MAX, None).await.unwrap();
    (Signature::of(bytes), imported.size)
}

#[tokio::test]
async fn what_is_lacking_is_fetched_and_what_cannot_be_had_is_named() {
    let (a, b) = pair().await;
    let (there, size) = put(&a, b"there").await;
    let nowhere = Signature::of(b"nowhere");
    let held = b.store.keep(&BTreeMap::from([(there, size), (nowhere, 7)]), &[a.network.peer_id()]).await;
    assert_eq!(held.blobs, BTreeMap::from([(there, size)]));
    assert!(held.failed[&nowhere].contains("does not have it"), "{:?}", held.failed);
    assert_eq!(b.store.held().await.unwrap().blobs, BTreeMap::from([(there, size)]));
}

#[tokio::test]
async fn one_blob_asked_for_many_times_at_once_comes_to_all() {
    let (a, b) = pair().await;
    let (blob, size) = put(&a, &[7; 3 << 20]).await;
    let wanted = BTreeMap::from([(blob, size)]);
    let from: Vec<PeerId> = vec![a.network.peer_id()];
    let all = futures::future::join_all((0..8).map(|_| b.store.keep(&wanted, &from))).await;
    for held in all {
        assert_eq!((held.blobs, held.failed), (wanted.clone(), BTreeMap::new()));
    }
}

#[tokio::test]
async fn a_blob_is_forgotten_when_nobody_was_told_of_it_for_long() {
    let kept_for = Duration::from_secs(2);
    let folder = tempfile::tempdir().unwrap();
    let network = Network::start(&Identity::generate(), NetworkConfig::new("data", [])).await.unwrap();
    let store = PackageStore::open_keeping(folder.path().to_owned(), network, 0, kept_for).await.unwrap();
    let blobs = [b"one", b"two"].map(|bytes| Signature::of(bytes));
    for bytes in [b"one", b"two"] {
        store.blobs().import(&bytes[..], 100, None).await.unwrap();
    }
    store.forget(&blobs).await.unwrap();
    assert_eq!(store.held().await.unwrap().blobs.len(), 2, "the store was just opened");
    tokio::time::sleep(kept_for).await;
    store.keep(&BTreeMap::from([(blobs[1], 3)]), &[]).await;
    store.forget(&blobs).await.unwrap();
    assert_eq!(store.held().await.unwrap().blobs.into_keys().collect::<Vec<_>>(), [blobs[1]]);
}
