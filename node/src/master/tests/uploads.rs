//! Files on their way into the package store.

use std::collections::BTreeSet;
use std::time::Duration;

use tribune_messages::api::{ApiError, ApiRequest, Query};
use tribune_raft_store::command::UserCommand;
use tribune_raft_store::model::Role;

use super::super::Caller;
use super::cluster::{Cluster, soon};

fn files(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_short_or_damaged_leaves_nothing() {
    let cluster = Cluster::new().await;
    let (package, file) = cluster.build("1.0.0");
    let size = std::fs::metadata(&file).unwrap().len() as usize;
    for cut in [0, 10, size / 2, size - 40, size - 1] {
        let error = cluster.upload(&file, Some(cut)).await.unwrap_err();
        assert!(matches!(&error, ApiError::Failed { what } if what.contains("cut short")), "{cut}: {error}");
        assert_eq!(files(&cluster.folder.path().join("packages")), 0, "{cut}");
    }
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 33;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = cluster.upload(&file, None).await.unwrap_err();
    assert!(matches!(&error, ApiError::Bad { what } if what.contains("is damaged")), "{error}");
    assert_eq!(files(&cluster.folder.path().join("packages")), 0);
    let error = cluster.order(1, UserCommand::Publish { packages: BTreeSet::from([package]) }).await.unwrap_err();
    assert!(matches!(&error, ApiError::NotUploaded { .. }) && error.to_string().contains("upload it first"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_leaves_what_others_brought() {
    let cluster = Cluster::new().await;
    let (_, file) = cluster.build("1.0.0");
    cluster.upload(&file, None).await.unwrap();
    let before = cluster.store.held().await.unwrap();
    assert_eq!(before.blobs.len(), 1);
    let size = std::fs::metadata(&file).unwrap().len() as usize;
    cluster.upload(&file, Some(size - 1)).await.unwrap_err();
    assert_eq!(cluster.store.held().await.unwrap(), before);
    // Nobody needs it yet, but somebody was told that it is here.
    let blobs: Vec<_> = before.blobs.keys().copied().collect();
    cluster.store.forget(&blobs).await.unwrap();
    assert_eq!(cluster.store.held().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_role_sees_and_brings_nothing() {
    let cluster = Cluster::new().await;
    let nobody = Caller::default();
    let answer = cluster.master.answer(ApiRequest::Query(Query::Nodes), &nobody).await;
    assert!(matches!(answer, Err(ApiError::Forbidden { .. })));
    let viewer = Caller { role: Some(Role::Viewer), name: Some("vera".into()), removed: false };
    let (_near, far) = tokio::io::duplex(64);
    let (_, mut receiver) = tribune_p2p::Channel::new(far, tribune_p2p::Limits::default()).split();
    let answer = cluster.master.upload(10, &mut receiver, &viewer).await.unwrap_err();
    assert_eq!(answer.to_string(), "vera is viewer and an upload needs publisher");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_removed_version_needs_leaves_the_store_and_what_is_published_again_stays() {
    let cluster = Cluster::keeping(Duration::from_millis(200)).await;
    let (old, first) = cluster.build("1.0.0");
    let (new, second) = cluster.build("2.0.0");
    let publish = async |request, package, file| {
        cluster.upload(file, None).await.unwrap();
        let packages = BTreeSet::from([package]);
        cluster.order(request, UserCommand::Publish { packages }).await.unwrap();
    };
    publish(1, old, &first).await;
    publish(2, new, &second).await;
    let held = async || cluster.store.held().await.unwrap().blobs;
    let both = held().await;
    assert_eq!(both.len(), 2);
    cluster.order(3, UserCommand::RemovePackage { package: old }).await.unwrap();
    soon("the store without the old version's module", async {
        while held().await.len() == 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let left = held().await;
    assert!(left.len() == 1 && left.iter().all(|(blob, size)| both.get(blob) == Some(size)), "{left:?}");

    // Removed and published again while the store is being cleared, again and again.
    for round in 0..10 {
        publish(10 + round, old, &first).await;
        assert_eq!(held().await, both, "what was acknowledged is there");
        tokio::time::sleep(Duration::from_millis(50 * u64::from(round))).await;
        assert_eq!(held().await, both, "and stays");
        cluster.order(30 + round, UserCommand::RemovePackage { package: old }).await.unwrap();
    }
}
