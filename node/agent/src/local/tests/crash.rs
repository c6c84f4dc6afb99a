//! A kill at any moment: a child process does the work and kills itself at its n-th change of the disk, for every n.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use tribune_raft_store::model::UpdateId;

use super::fixtures::*;
use super::{app, two_versions};
use crate::local::{LocalStorage, Software};

const FOLDER: &str = "TRIBUNE_TEST_CRASH_FOLDER";
const AT: &str = "TRIBUNE_TEST_CRASH_AT";

/// How many points are left to pass; 0: no kill.
static LEFT: AtomicI64 = AtomicI64::new(0);

/// Ends the process here if it is the point to end at.
pub(crate) fn point() {
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        kill_process(getpid(), Signal::KILL).unwrap();
        loop {
            std::thread::park();
        }
    }
}

/// What is killed: an update, from staging to clearing away.
async fn update(storage: &LocalStorage) {
    let base = storage.installed(2).await.unwrap();
    let to = [app("3.0.0", "three", "three")];
    storage.save_update(UpdateId(3), "staging").await.unwrap();
    let staged = storage.stage(UpdateId(3), &base, &plan(&base, &to), &texts(&to)).await.unwrap();
    assert_eq!(staged.number(), 3);
    storage.show_live(Software::Generation(3)).await.unwrap();
    storage.switch_current(3).await.unwrap();
    storage.remove_update(UpdateId(3)).await.unwrap();
    storage.discard(9).await.unwrap();
    storage.clear_away(&BTreeSet::new(), &BTreeSet::new()).await.unwrap();
}

#[tokio::test]
async fn a_child_that_is_killed() {
    let (Ok(folder), Ok(at)) = (std::env::var(FOLDER), std::env::var(AT)) else { return };
    let storage = LocalStorage::open(folder.into()).await.unwrap();
    LEFT.store(at.parse().unwrap(), Ordering::SeqCst);
    update(&storage).await;
}

/// Whether the child was killed at this point.
fn killed_at(at: u64, folder: &Path) -> bool {
    let test = "local::tests::crash::a_child_that_is_killed";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs([(FOLDER, folder.to_str().unwrap()), (AT, &at.to_string())])
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(Signal::KILL.as_raw());
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    killed
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_the_old_or_the_new_generation_and_the_same_again_completes_it() {
    let mut at = 1;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("local");
        let storage = LocalStorage::open(local.clone()).await.unwrap();
        let (_, second) = two_versions(&storage).await;
        let unchanged = inode_and_mtime(&storage.tree(2).join("app/appd"));
        fetch(&storage, b"three").await;
        fetch(&storage, &archive_of("three")).await;
        drop(storage);
        let killed = killed_at(at, &local);

        let storage = LocalStorage::open(local).await.unwrap();
        let current = storage.current().await.unwrap();
        assert!(current == second || current.number() == 3, "at {at}: {current:?}");
        storage.verify(current.number()).await.unwrap();
        storage.verify(2).await.unwrap();
        storage.load_updates::<String>().await.unwrap();
        if current == second {
            let kept: Vec<u64> = storage.kept().await.unwrap().into_keys().collect();
            assert_eq!(&kept[..1], [1], "at {at}");
        }
        update(&storage).await;
        assert_eq!(storage.current().await.unwrap().number(), 3, "at {at}");
        assert_eq!(storage.kept().await.unwrap().into_keys().collect::<Vec<_>>(), [1, 2], "at {at}");
        for number in 1..=3 {
            storage.verify(number).await.unwrap();
        }
        assert_eq!(inode_and_mtime(&storage.tree(2).join("app/appd")), unchanged, "at {at}");
        assert!(storage.load_updates::<String>().await.unwrap().is_empty());
        for name in ["", "generations", "manifests", "folders", "updates"] {
            let names: Vec<_> = std::fs::read_dir(storage.folder().join(name)).unwrap().map(|e| e.unwrap().file_name()).collect();
            let left = |name: &str| name.starts_with('.') && !name.starts_with(".copy-");
            assert!(names.iter().all(|name| !left(name.to_str().unwrap())), "at {at}: {names:?}");
        }
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 20, "only {at} points were passed");
}
