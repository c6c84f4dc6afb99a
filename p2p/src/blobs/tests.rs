//! The store on a real disk: what is in it is whole, and what is not whole is not in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

async fn store(folder: &Path) -> BlobStore {
    BlobStore::open_with_reserve(folder, 0).await.unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

fn flip_a_byte(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

async fn read_all(store: &BlobStore, signature: &Hash, offset: u64) -> Result<Vec<u8>, BlobError> {
    let mut reader = store.read_verified(signature, offset).await?;
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await? {
        all.extend_from_slice(piece);
    }
    Ok(all)
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn an_import_is_listed_read_back_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    for len in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP] {
        let content = bytes(len);
        let imported = store.import(&content[..], 10 << 20, None).await.unwrap();
        assert_eq!(imported, Imported { signature: blake3::hash(&content), size: len as u64 });
        assert_eq!(read_all(&store, &imported.signature, 0).await.unwrap(), content);
        let offset = len / 3;
        assert_eq!(read_all(&store, &imported.signature, offset as u64).await.unwrap(), content[offset..]);
        assert_eq!(store.verify(&imported.signature).await.unwrap(), Condition::Sound);
    }
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), 6);
    for (signature, size) in listed {
        assert_eq!(store.size(&signature).await.unwrap(), Some(size));
        store.remove(&signature).await.unwrap();
        store.remove(&signature).await.unwrap();
        assert!(!store.contains(&signature).await.unwrap());
    }
    assert_eq!(files_in(&folder.path().join("incoming")), 0);
}

#[tokio::test]
async fn a_blob_lies_read_only_under_its_signature() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let signature = store.import(&b"content"[..], 100, None).await.unwrap().signature;
    let hex = signature.to_hex();
    let path = folder.path().join(&hex[..2]).join(hex.as_str());
    assert_eq!(store.path(&signature), path);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o444);
}

#[tokio::test]
async fn an_import_of_other_or_too_many_bytes_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let expected = blake3::hash(b"expected");
    let error = store.import(&b"other"[..], 100, Some(expected)).await.unwrap_err().to_string();
    assert!(error.contains(&expected.to_string()) && error.contains(&blake3::hash(b"other").to_string()), "{error}");
    assert!(matches!(store.import(&bytes(101)[..], 100, None).await, Err(BlobError::TooLarge { limit: 100 })));
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(files_in(&folder.path().join("incoming")), 0);
}

#[tokio::test]
async fn writing_resumes_where_it_was_left_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(STEP * 2 + 100);
    let (signature, size) = (blake3::hash(&content), content.len() as u64);
    let first = store(folder.path()).await;
    let mut writer = first.writer(signature, size).await.unwrap();
    writer.write(&content[..STEP + 5]).await.unwrap();
    assert!(matches!(first.writer(signature, size).await, Err(BlobError::Busy(_))));
    writer.flush().await.unwrap();
    drop((writer, first));

    let again = store(folder.path()).await;
    let mut writer = again.writer(signature, size).await.unwrap();
    let offset = writer.offset() as usize;
    assert_eq!(offset, STEP + 5);
    writer.write(&content[offset..]).await.unwrap();
    assert!(!again.contains(&signature).await.unwrap(), "it is not there before it is committed");
    writer.commit().await.unwrap();
    assert_eq!(read_all(&again, &signature, 0).await.unwrap(), content);
    assert_eq!(files_in(&folder.path().join("partial")), 0);
}

#[tokio::test]
async fn wrong_bytes_are_removed_and_both_signatures_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let expected = blake3::hash(b"right");
    let mut writer = store.writer(expected, 5).await.unwrap();
    assert!(matches!(writer.write(b"longer").await, Err(BlobError::WrongSize { expected: 5, actual: 6, .. })));
    writer.write(b"wrong").await.unwrap();
    let error = writer.commit().await.unwrap_err().to_string();
    assert!(error.contains(&expected.to_string()) && error.contains(&blake3::hash(b"wrong").to_string()), "{error}");
    assert_eq!(files_in(&folder.path().join("partial")), 0);

    let mut writer = store.writer(expected, 5).await.unwrap();
    writer.write(b"wr").await.unwrap();
    writer.restart().await.unwrap();
    writer.write(b"right").await.unwrap();
    writer.commit().await.unwrap();
    assert!(store.contains(&expected).await.unwrap());
}

#[tokio::test]
async fn too_short_a_blob_is_not_committed_but_kept_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let signature = blake3::hash(b"whole");
    let mut writer = store.writer(signature, 5).await.unwrap();
    writer.write(b"who").await.unwrap();
    writer.flush().await.unwrap();
    assert!(matches!(writer.commit().await, Err(BlobError::WrongSize { expected: 5, actual: 3, .. })));
    assert_eq!(store.writer(signature, 5).await.unwrap().offset(), 3);
    assert_eq!(store.writer(signature, 2).await.unwrap().offset(), 0, "more than there may be is begun again");
}

#[tokio::test]
async fn a_changed_byte_on_disk_is_found_while_reading_and_moved_away_by_verify() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let content = bytes(STEP + 10);
    let signature = store.import(&content[..], 1 << 20, None).await.unwrap().signature;
    flip_a_byte(&store.path(&signature));
    assert!(matches!(read_all(&store, &signature, 0).await, Err(BlobError::Mismatch { .. })));
    let past_the_change = content.len() as u64 - 5;
    assert!(matches!(read_all(&store, &signature, past_the_change).await, Err(BlobError::Mismatch { .. })));
    assert!(matches!(store.verify(&signature).await.unwrap(), Condition::Corrupt { actual } if actual != signature));
    assert!(!store.contains(&signature).await.unwrap());
    assert_eq!(store.verify(&signature).await.unwrap(), Condition::Missing);
    assert_eq!(files_in(&folder.path().join("corrupt")), 1);
    assert!(store.was_damaged(&signature).await.unwrap());
    store.import(&content[..], 1 << 20, None).await.unwrap();
    assert!(!store.was_damaged(&signature).await.unwrap(), "a sound one has come");
    store.remove(&signature).await.unwrap();
    assert!(!store.was_damaged(&signature).await.unwrap(), "it is not wanted any more");
    assert_eq!(files_in(&folder.path().join("corrupt")), 0);
}

#[tokio::test]
async fn writing_stops_at_the_reserve_of_free_space() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open_with_reserve(folder.path(), u64::MAX / 2).await.unwrap();
    let error = store.writer(blake3::hash(b"x"), 1).await.unwrap_err();
    assert!(matches!(error, BlobError::NoSpace { needed: 1, .. }), "{error}");
    assert!(matches!(store.import(&b"x"[..], 1, None).await, Err(BlobError::NoSpace { .. })));
}

#[tokio::test]
async fn opening_wipes_unfinished_imports_and_keeps_unfinished_fetches() {
    let folder = tempfile::tempdir().unwrap();
    drop(store(folder.path()).await);
    fs::write(folder.path().join("incoming/left-over"), b"x").unwrap();
    fs::write(folder.path().join("partial/left-over"), b"x").unwrap();
    fs::create_dir(folder.path().join("ab")).unwrap();
    fs::write(folder.path().join("ab/not-a-blob"), b"x").unwrap();
    assert_eq!(store(folder.path()).await.list().await.unwrap(), []);
    assert_eq!(files_in(&folder.path().join("incoming")), 0);
    assert_eq!(files_in(&folder.path().join("partial")), 1);
}

#[tokio::test]
async fn a_blob_that_another_store_has_is_shared_or_copied_where_that_cannot_be() {
    // What file systems give one file of names at most; those that give more share it here too.
    const MOST_NAMES: usize = 65_000;
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (store(&folder.path().join("near")).await, store(&folder.path().join("far")).await);
    let content = bytes(1000);
    let signature = far.import(content.as_slice(), u64::MAX, None).await.unwrap().signature;
    assert!(near.take_from(&far, &signature).await.unwrap());
    near.remove(&signature).await.unwrap();

    let names = folder.path().join("names");
    fs::create_dir(&names).unwrap();
    let given = (0..MOST_NAMES).take_while(|name| fs::hard_link(far.path(&signature), names.join(name.to_string())).is_ok());
    given.count();
    assert!(near.take_from(&far, &signature).await.unwrap());
    assert_eq!(read_all(&near, &signature, 0).await.unwrap(), content);
    assert!(!near.take_from(&far, &Hash::from_bytes([7; 32])).await.unwrap(), "nobody has it");
}

#[test]
fn a_full_disk_is_called_one_and_what_to_do_is_said() {
    // What is written there finds no room.
    let full = std::fs::write("/dev/full", "x").unwrap_err();
    let error = io_at("write", Path::new("/d/packages/incoming/1"))(full);
    assert!(matches!(error, BlobError::DiskFull { .. }));
    assert_eq!(error.to_string(), "cannot write /d/packages/incoming/1: its disk is full; make room there");
}
