#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tribune_raft_store::model::{NodePlan, Signature, UpdateId};

use self::fixtures::*;
use super::*;

pub(crate) mod crash;
pub(crate) mod fixtures;

async fn open(folder: &tempfile::TempDir) -> LocalStorage {
    LocalStorage::open(folder.path().join("local")).await.unwrap()
}

fn ten_modules(third: &str) -> Vec<Value> {
    (0..10).map(|n| module(&format!("m{n}"), &if n == 3 { third.to_owned() } else { format!("module {n}") }, json!({}))).collect()
}

async fn fetch_ten(storage: &LocalStorage, third: &str) {
    for n in 0..10 {
        let bytes = if n == 3 { third.to_owned() } else { format!("module {n}") };
        fetch(storage, bytes.as_bytes()).await;
    }
}

#[tokio::test]
async fn nothing_is_installed_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    assert_eq!(storage.current().await.unwrap(), Installed::default());
    assert!(storage.kept().await.unwrap().is_empty());
    assert!(matches!(storage.installed(1).await, Err(LocalError::NoGeneration(1))));
    storage.verify(0).await.unwrap();
}

#[tokio::test]
async fn only_the_modules_that_differ_are_lacking_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let old = package("ten", "1.0.0", &ten_modules("old"));
    let base = storage.current().await.unwrap();
    assert_eq!(storage.lacking(&plan(&base, std::slice::from_ref(&old))).await.unwrap().len(), 10);
    fetch_ten(&storage, "old").await;
    assert!(storage.lacking(&plan(&base, std::slice::from_ref(&old))).await.unwrap().is_empty());
    let base = install(&storage, 1, &[old]).await;
    assert_eq!((base.number(), base.generation.replaced), (1, Some(0)));
    let before: Vec<_> = (0..10).map(|n| inode_and_mtime(&storage.tree(1).join(format!("ten/m{n}")))).collect();

    let new = package("ten", "1.1.0", &ten_modules("new"));
    let plan = plan(&base, std::slice::from_ref(&new));
    assert_eq!(storage.lacking(&plan).await.unwrap(), [(Signature::of(b"new"), 3)]);
    fetch(&storage, b"new").await;
    let staged = storage.stage(UpdateId(2), &base, &plan, &texts(&[new])).await.unwrap();
    assert_eq!((staged.number(), staged.generation.replaced), (2, Some(1)));
    assert_eq!(storage.current().await.unwrap(), base, "staging makes nothing current");
    for (n, before) in before.into_iter().enumerate() {
        let after = inode_and_mtime(&storage.tree(2).join(format!("ten/m{n}")));
        assert_eq!(before == after, n != 3, "module {n}");
    }
    let program = storage.tree(2).join("ten/m3");
    assert_eq!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o555);
    assert_eq!(std::fs::read(&program).unwrap(), b"new");
}

#[tokio::test]
async fn what_is_current_and_kept_survives_opening_again_and_moving_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (first, second) = two_versions(&storage).await;
    drop(storage);
    std::fs::rename(folder.path().join("local"), folder.path().join("moved")).unwrap();
    let storage = LocalStorage::open(folder.path().join("moved")).await.unwrap();
    assert_eq!(storage.current().await.unwrap(), second);
    assert_eq!(storage.kept().await.unwrap().into_values().collect::<Vec<_>>(), std::slice::from_ref(&first.generation));
    assert_eq!(storage.installed(1).await.unwrap(), first);
    assert_eq!(second.module("app/appd").unwrap().package.manifest.version.to_string(), "2.0.0");
    storage.verify(1).await.unwrap();
    storage.verify(2).await.unwrap();
    assert_eq!(std::fs::read_to_string(storage.live().join("app/files/data")).unwrap(), "two");
}

fn app(version: &str, program: &str, files: &str) -> Arc<StoredManifest> {
    package("app", version, &[module("appd", program, json!({})), folder_module("files", &archive_of(files))])
}

/// Two generations, each with a program and a folder.
async fn two_versions(storage: &LocalStorage) -> (Installed, Installed) {
    for text in ["one", "two"] {
        fetch(storage, text.as_bytes()).await;
        fetch(storage, &archive_of(text)).await;
    }
    let first = install(storage, 1, &[app("1.0.0", "one", "one")]).await;
    (first, install(storage, 2, &[app("2.0.0", "two", "two")]).await)
}

#[tokio::test]
async fn staging_again_answers_the_same_generation_and_a_new_plan_of_the_update_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, base) = two_versions(&storage).await;
    let old = app("1.0.0", "one", "one");
    let back = [old.clone()];
    let plan_back = plan(&base, &back);
    let staged = storage.stage(UpdateId(3), &base, &plan_back, &[]).await.unwrap();
    assert_eq!(staged.number(), 3, "the manifest was found on disk");
    assert_eq!(storage.stage(UpdateId(3), &base, &plan_back, &texts(&back)).await.unwrap(), staged);
    drop(storage);
    let storage = open(&folder).await;
    assert_eq!(storage.stage(UpdateId(3), &base, &plan_back, &[]).await.unwrap(), staged);

    let other = [app("3.0.0", "two", "one")];
    let revised = storage.stage(UpdateId(3), &base, &plan(&base, &other), &texts(&other)).await.unwrap();
    assert_eq!(revised.number(), 4);
    assert!(matches!(storage.installed(3).await, Err(LocalError::NoGeneration(3))));
    storage.discard(4).await.unwrap();
    storage.discard(4).await.unwrap();
    drop(storage);
    let storage = open(&folder).await;
    let later = storage.stage(UpdateId(5), &base, &plan_back, &[]).await.unwrap();
    assert_eq!(later.number(), 5, "no number is given twice");
    assert_eq!(storage.kept().await.unwrap().into_keys().collect::<Vec<_>>(), [1], "what was only staged cannot be gone back to");
    assert!(matches!(storage.discard(2).await, Err(LocalError::WasCurrent(2))));
}

#[tokio::test]
async fn a_regress_uses_the_kept_generation_that_has_exactly_those_modules() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (first, second) = two_versions(&storage).await;
    let back = NodePlan { local: true, ..plan(&second, &[app("1.0.0", "one", "one")]) };
    assert_eq!(storage.stage(UpdateId(3), &second, &back, &[]).await.unwrap(), first);
    let nothing = NodePlan { local: true, ..plan(&second, &[]) };
    let none = storage.stage(UpdateId(4), &second, &nothing, &[]).await.unwrap();
    assert_eq!(none, Installed::default());
    storage.switch_current(none.number()).await.unwrap();
    assert_eq!(storage.current().await.unwrap(), Installed::default());
    assert!(!storage.live().exists());
    assert_eq!(storage.kept().await.unwrap().into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_plan_that_changes_nothing_makes_no_generation() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, second) = two_versions(&storage).await;
    let same = plan(&second, &[app("2.0.0", "two", "two")]);
    assert_eq!(storage.stage(UpdateId(3), &second, &same, &[]).await.unwrap(), second);
}

#[tokio::test]
async fn a_flipped_bit_is_named_fetched_again_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, second) = two_versions(&storage).await;
    flip(&storage.tree(2).join("app/appd"));
    let error = storage.verify(2).await.unwrap_err();
    assert!(
        error.to_string().contains("generation 2 is damaged: module app/appd") && error.to_string().contains("has changed"),
        "{error}"
    );
    storage.verify(1).await.unwrap();

    let same = plan(&second, &[app("2.0.0", "two", "two")]);
    assert_eq!(storage.lacking(&same).await.unwrap(), [(Signature::of(b"two"), 3)]);
    assert!(matches!(storage.mend(2).await, Err(LocalError::Lacking(_))));
    fetch(&storage, b"two").await;
    storage.mend(2).await.unwrap();
    storage.verify(2).await.unwrap();
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    let real = path.canonicalize().unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&real, bytes).unwrap();
}

#[tokio::test]
async fn a_changed_folder_is_named_and_unpacked_again_from_what_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    two_versions(&storage).await;
    std::fs::write(storage.tree(2).join("app/files/more"), "cached").unwrap();
    let Err(LocalError::Damaged { generation: 2, modules }) = storage.verify(2).await else { panic!("it is damaged") };
    assert_eq!(modules.iter().map(|damage| damage.module.as_str()).collect::<Vec<_>>(), ["app/files"]);
    storage.mend(2).await.unwrap();
    storage.verify(2).await.unwrap();
    assert!(!storage.tree(2).join("app/files/more").exists());
    assert_eq!(std::fs::read_dir(storage.folder().join("folders")).unwrap().count(), 2, "nothing is left over");
}

#[tokio::test]
async fn a_changed_folder_whose_archive_is_gone_is_lacking() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, second) = two_versions(&storage).await;
    let archive = archive_of("two");
    flip(&storage.tree(2).join("app/files/data"));
    storage.blobs().remove(&blake3::hash(&archive)).await.unwrap();
    assert!(matches!(storage.mend(2).await, Err(LocalError::Lacking(_))));
    let same = plan(&second, &[app("2.0.0", "two", "two")]);
    assert_eq!(storage.lacking(&same).await.unwrap(), [(Signature::of(&archive), archive.len() as u64)]);
}

#[tokio::test]
async fn staging_says_what_is_lacking_and_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, second) = two_versions(&storage).await;
    let to = [app("3.0.0", "three", "two")];
    let error = storage.stage(UpdateId(3), &second, &plan(&second, &to), &texts(&to)).await.unwrap_err();
    assert!(error.to_string().contains("app/appd") && error.to_string().contains("is not here"), "{error}");
    assert_eq!(storage.current().await.unwrap(), second);
    fetch(&storage, b"three").await;
    assert_eq!(storage.stage(UpdateId(3), &second, &plan(&second, &to), &texts(&to)).await.unwrap().number(), 3);
}

#[tokio::test]
async fn a_plan_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (first, second) = two_versions(&storage).await;
    let to = [app("3.0.0", "two", "two")];
    let refused = async |base: &Installed, plan: NodePlan, manifests: &[String]| {
        let refused = storage.stage(UpdateId(3), base, &plan, manifests).await;
        let Err(LocalError::Plan(error)) = refused else { panic!("{refused:?}") };
        error
    };
    let good = plan(&second, &to);
    assert!(matches!(refused(&second, good.clone(), &[]).await, PlanError::NoManifest(_)));
    assert!(matches!(refused(&first, good.clone(), &texts(&to)).await, PlanError::Base { .. }));
    let mut text = texts(&to);
    text[0].push(' ');
    assert!(matches!(refused(&second, good.clone(), &text).await, PlanError::Manifest(_)));

    let mut other = good.clone();
    other.modules.get_mut("app/appd").unwrap().signature = Signature::of(b"one");
    assert!(matches!(refused(&second, other, &texts(&to)).await, PlanError::OtherModule { .. }));
    let mut other = good.clone();
    let moved = other.modules.remove("app/appd").unwrap();
    other.modules.insert("app/else".into(), moved);
    assert!(matches!(refused(&second, other, &texts(&to)).await, PlanError::OtherModule { .. }));
    let mut other = good.clone();
    other.modules.get_mut("app/appd").unwrap().package = second.generation.packages.values().next().copied().unwrap();
    assert!(matches!(refused(&second, other, &texts(&to)).await, PlanError::OtherVersion { .. }));
    let mut other = good.clone();
    other.modules.get_mut("app/appd").unwrap().size += 1;
    assert!(matches!(refused(&second, other, &texts(&to)).await, PlanError::OtherModule { .. }));
    assert!(matches!(refused(&second, NodePlan::default(), &[]).await, PlanError::Forgotten(_)));
    assert_eq!(storage.current().await.unwrap(), second);
    assert!(matches!(storage.installed(3).await, Err(LocalError::NoGeneration(3))));
}

#[tokio::test]
async fn clearing_away_keeps_what_can_be_gone_back_to_and_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    for n in 1..=8 {
        let text = format!("version {n}");
        fetch(&storage, text.as_bytes()).await;
        fetch(&storage, &archive_of(&text)).await;
        install(&storage, n, &[app(&format!("{n}.0.0"), &text, &text)]).await;
    }
    let fetching = fetch(&storage, b"being fetched").await;
    let stray = fetch(&storage, b"left over").await;
    storage.clear_away(&BTreeSet::from([1]), &BTreeSet::from([fetching])).await.unwrap();
    assert_eq!(storage.kept().await.unwrap().into_keys().collect::<Vec<_>>(), [1, 4, 5, 6, 7]);
    for n in [1, 4, 5, 6, 7, 8] {
        storage.verify(n).await.unwrap();
    }
    let blobs = async |signature: &Signature| storage.blobs().contains(&modules::hash(signature)).await.unwrap();
    assert!(blobs(&fetching).await && !blobs(&stray).await && !blobs(&Signature::of(b"version 2")).await);
    let count = |name: &str| std::fs::read_dir(storage.folder().join(name)).unwrap().count();
    // Each manifest in two copies.
    assert_eq!((count("folders"), count("manifests"), count("generations")), (6, 12, 6));
    storage.switch_current(1).await.unwrap();
    storage.clear_away(&BTreeSet::new(), &BTreeSet::new()).await.unwrap();
    assert_eq!(storage.kept().await.unwrap().into_keys().collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn nothing_is_cleared_away_when_a_generation_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    two_versions(&storage).await;
    let stray = fetch(&storage, b"left over").await;
    for name in ["generation.json", ".copy-generation.json"] {
        std::fs::write(storage.folder().join("generations/1").join(name), "{").unwrap();
    }
    let error = storage.clear_away(&BTreeSet::new(), &BTreeSet::new()).await.unwrap_err();
    assert!(error.to_string().contains("generations/1/generation.json is damaged"), "{error}");
    assert!(storage.blobs().contains(&modules::hash(&stray)).await.unwrap());
}

#[tokio::test]
async fn journals_and_notes_are_read_back_and_a_damaged_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    storage.save_update(UpdateId(7), &json!({ "step": "asked" })).await.unwrap();
    storage.save_update(UpdateId(7), &json!({ "step": "voted" })).await.unwrap();
    storage.save_update(UpdateId(12), &json!({ "step": "asked" })).await.unwrap();
    std::fs::write(storage.folder().join("updates/.new-left"), "half").unwrap();
    drop(storage);
    let storage = open(&folder).await;
    assert!(!storage.folder().join("updates/.new-left").exists());
    let updates = storage.load_updates::<Value>().await.unwrap();
    assert_eq!(updates.keys().copied().collect::<Vec<_>>(), [UpdateId(7), UpdateId(12)]);
    assert_eq!(updates[&UpdateId(7)], json!({ "step": "voted" }));
    storage.remove_update(UpdateId(7)).await.unwrap();
    storage.remove_update(UpdateId(7)).await.unwrap();
    let both = |folder: &str, name: &str, text: &str| {
        for name in [name.to_owned(), format!(".copy-{name}")] {
            std::fs::write(storage.folder().join(folder).join(name), text).unwrap();
        }
    };
    std::fs::write(storage.folder().join("updates/u12.json"), "{").unwrap();
    assert_eq!(storage.load_updates::<Value>().await.unwrap()[&UpdateId(12)], json!({ "step": "asked" }));
    both("updates", "u12.json", r#"{"format": 1, "val"#);
    let error = storage.load_updates::<Value>().await.unwrap_err();
    assert!(error.to_string().contains("updates/u12.json is damaged"), "{error}");
    both("updates", "u12.json", r#"{"format": 2, "worth": 1}"#);
    let error = storage.load_updates::<Value>().await.unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");

    assert_eq!(storage.load::<u64>("attempt").await.unwrap(), None);
    storage.save("attempt", &3u64).await.unwrap();
    assert_eq!(storage.load::<u64>("attempt").await.unwrap(), Some(3));
    let note = storage.folder().join("notes/attempt.json");
    let turned = std::fs::read_to_string(&note).unwrap().replace("\"value\": 3", "\"value\": 1");
    std::fs::write(&note, turned).unwrap();
    assert_eq!(storage.load::<u64>("attempt").await.unwrap(), Some(3), "what was written");
    for bad in ["", "../x", "A", "a.b"] {
        assert!(matches!(storage.save(bad, &1).await, Err(LocalError::Name(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn a_turned_bit_in_a_small_file_is_put_right_and_one_in_both_copies_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (_, second) = two_versions(&storage).await;
    let id = second.packages().next().unwrap().id;
    for (within, name) in
        [("manifests", format!("{id}.json")), ("generations/2", "generation.json".into()), (".", "current".into())]
    {
        let path = storage.folder().join(within).join(&name);
        let copy = path.with_file_name(format!(".copy-{name}"));
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), whole);
        // Every bit: whatever it makes of the text, what is read is what was written.
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(storage.current().await.unwrap(), second, "bit of byte {at} of {name}");
            // One in a space between words says the same.
            std::fs::write(&path, &whole).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(storage.current().await.unwrap(), second, "{name} was gone");
        assert_eq!(std::fs::read(&path).unwrap(), whole, "it was put back");
        for path in [&path, &copy] {
            std::fs::write(path, "two").unwrap();
        }
        let error = storage.current().await.unwrap_err();
        assert!(error.to_string().contains(&format!("{name} is damaged: ")), "{error}");
        assert!(error.to_string().contains("put it back from a backup"), "{error}");
        for path in [&path, &copy] {
            std::fs::write(path, &whole).unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_that_a_crash_left_behind_is_brought_up_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (first, second) = two_versions(&storage).await;
    let (current, copy) = (storage.folder().join("current"), storage.folder().join(".copy-current"));
    storage.switch_current(1).await.unwrap();
    let older = std::fs::read(&copy).unwrap();
    storage.switch_current(2).await.unwrap();
    std::fs::write(&copy, older).unwrap();
    assert_ne!(storage.current().await.unwrap(), first);
    drop(storage);
    let storage = open(&folder).await;
    std::fs::write(&current, "?").unwrap();
    assert_eq!(storage.current().await.unwrap(), second);
}

#[tokio::test]
async fn a_copy_that_cannot_be_written_keeps_nobody_from_local_storage() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (first, _) = two_versions(&storage).await;
    storage.switch_current(1).await.unwrap();
    let copy = storage.folder().join(".copy-current");
    drop(storage);
    std::fs::remove_file(&copy).unwrap();
    std::fs::create_dir_all(copy.join("in the way")).unwrap();
    assert_eq!(open(&folder).await.current().await.unwrap(), first);
}
