//! Archives there and back, and every way they can be wrong.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// One entry as bytes, whether or not it is allowed.
fn entry(kind: u8, path: &str, rest: &[u8]) -> Vec<u8> {
    let length = (path.len() as u16).to_le_bytes();
    [&[kind], length.as_slice(), path.as_bytes(), rest].concat()
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(LINK, path, &[&(target.len() as u16).to_le_bytes(), target.as_bytes()].concat())
}

fn file(path: &str, contents: &str) -> Vec<u8> {
    entry(FILE, path, &[&(contents.len() as u64).to_le_bytes(), contents.as_bytes()].concat())
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC.as_slice(), &entries.concat(), &[END]].concat()
}

fn unpack_bytes(bytes: &[u8], folder: &Path) -> Result<(), ArchiveError> {
    unpack(bytes, Measure { signature: Signature::of(bytes), size: bytes.len() as u64 }, folder)
}

/// Why these bytes are refused, having made sure that nothing was left behind by trying.
fn refused(bytes: &[u8]) -> String {
    let around = tempfile::tempdir().unwrap();
    let error = unpack_bytes(bytes, &around.path().join("inside")).unwrap_err().to_string();
    assert_eq!(check(bytes, bytes.len() as u64).unwrap_err().to_string(), error, "checking says the same");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 0, "{error}");
    error
}

/// Everything in a folder: for each path its kind, mode and contents or target.
fn listing(folder: &Path) -> BTreeMap<String, (char, u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(at) = waiting.pop() {
        for item in fs::read_dir(&at).unwrap() {
            let path = item.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let what = if metadata.is_dir() {
                waiting.push(path.clone());
                ('d', mode, Vec::new())
            } else if metadata.is_symlink() {
                ('l', 0, fs::read_link(&path).unwrap().to_str().unwrap().into())
            } else {
                ('f', mode, fs::read(&path).unwrap())
            };
            all.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), what);
        }
    }
    all
}

fn packed(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(folder, &mut bytes).unwrap();
    bytes
}

fn some_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("lib/deep/er")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::create_dir(at.join("bin")).unwrap();
    fs::write(at.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::write(at.join("lib/deep/er/data"), vec![7; 300_000]).unwrap();
    fs::set_permissions(at.join("lib/deep/er/data"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(at.join("lib.txt"), "").unwrap();
    symlink("../lib/deep", at.join("bin/deep")).unwrap();
    symlink("nowhere", at.join("dangling")).unwrap();
    folder
}

#[test]
fn a_folder_comes_back_with_modes_and_links_and_nothing_else() {
    let folder = some_folder();
    let around = tempfile::tempdir().unwrap();
    let copy = around.path().join("copy");
    let bytes = packed(folder.path());
    assert_eq!(measure(folder.path()).unwrap(), Measure { signature: Signature::of(&bytes), size: bytes.len() as u64 });
    unpack_bytes(&bytes, &copy).unwrap();
    let all = listing(&copy);
    let kinds: Vec<_> = all.iter().map(|(path, (kind, mode, _))| format!("{kind} {mode:o} {path}")).collect();
    assert_eq!(
        kinds,
        [
            "d 755 bin",
            "l 0 bin/deep",
            "f 755 bin/run",
            "l 0 dangling",
            "d 755 empty",
            "d 755 lib",
            "f 644 lib.txt",
            "d 755 lib/deep",
            "d 755 lib/deep/er",
            "f 644 lib/deep/er/data"
        ]
    );
    assert_eq!(all["bin/deep"].2, b"../lib/deep");
    assert_eq!(all["lib/deep/er/data"].2, vec![7; 300_000]);
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(packed(&copy), bytes, "what was unpacked packs to the same bytes");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
}

#[test]
fn an_archive_is_unpacked_into_a_new_folder_only() {
    let around = tempfile::tempdir().unwrap();
    let error = unpack_bytes(&archive(&[]), around.path()).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists(_)), "{error}");
}

#[test]
fn bytes_of_another_signature_leave_nothing_behind() {
    let around = tempfile::tempdir().unwrap();
    let bytes = archive(&[file("a", "x")]);
    let expected = Measure { signature: Signature::of(b"other"), size: bytes.len() as u64 };
    let error = unpack(bytes.as_slice(), expected, &around.path().join("inside")).unwrap_err();
    assert!(matches!(error, ArchiveError::Mismatch { .. }), "{error}");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 0);
}

#[test]
fn a_path_that_leads_out_is_refused() {
    for (bytes, message) in [
        (file("/etc/passwd", "x"), "\"/etc/passwd\" has an absolute path; paths are relative to the module's folder"),
        (file("../x", "x"), "\"../x\" has \"..\" in its path, which could lead out of the module's folder"),
        (file("a/../../x", "x"), "\"a/../../x\" has \"..\" in its path, which could lead out of the module's folder"),
        (file("a//x", "x"), "\"a//x\" has an empty or \".\" component in its path"),
        (file("./x", "x"), "\"./x\" has an empty or \".\" component in its path"),
        (file("", "x"), "\"\" has an empty or \".\" component in its path"),
        (file("a\0b", "x"), "\"a\\0b\" has a control character in its name; rename it"),
        (link("x", "/etc"), "\"x\" is a link to the absolute path /etc; make it relative"),
        (link("x", ".."), "\"x\" is a link to .., out of the module's folder"),
        (link("x", "a/../b"), "\"x\" is a link to a/../b; \"..\" is allowed only at the beginning of a link's target"),
        (file("a/x", "x"), "\"a/x\" lies in a folder that is not there"),
        (entry(9, "x", &[]), "\"x\" is of the unknown kind 9"),
    ] {
        assert_eq!(refused(&archive(&[bytes])), format!("the archive is not valid at byte 8: {message}"));
    }
}

#[test]
fn a_file_beneath_a_link_is_refused() {
    let bytes = archive(&[entry(FOLDER, "a", &[]), link("b", "a"), file("b/x", "x")]);
    assert!(refused(&bytes).ends_with("\"b/x\" lies in a folder that is not there"));
}

#[test]
fn links_that_climb_by_way_of_other_links_are_refused() {
    // s/up is the root, so that a textual look at y would find s, and the system the root's parent.
    let bytes = archive(&[entry(FOLDER, "s", &[]), link("s/up", ".."), link("y", "s/up/..")]);
    assert!(refused(&bytes).contains("only at the beginning"));
}

#[test]
fn entries_that_are_not_in_order_or_there_twice_are_refused() {
    for entries in [
        [file("b", ""), file("a", "")],
        [file("a", ""), file("a", "")],
        [entry(FOLDER, "a.b", &[]), entry(FOLDER, "a", &[])],
        [entry(FOLDER, "a", &[]), link("a", "b")],
    ] {
        assert!(refused(&archive(&entries)).contains("is not in order; entries are sorted and there once"));
    }
    // A folder's contents come before its neighbours, although '-' is less than '/'.
    let good = archive(&[entry(FOLDER, "a", &[]), file("a/x", ""), file("a-b", "")]);
    let around = tempfile::tempdir().unwrap();
    unpack_bytes(&good, &around.path().join("inside")).unwrap();
}

#[test]
fn an_archive_that_is_too_deep_or_goes_on_after_its_end_is_refused() {
    let mut entries = Vec::new();
    let mut path = String::from("d");
    for _ in 0..=MAX_DEPTH {
        entries.push(entry(FOLDER, &path, &[]));
        path.push_str("/d");
    }
    assert!(refused(&archive(&entries)).ends_with("lies 65 folders deep; at most 64 are allowed"));
    let long = "x".repeat(MAX_PATH_BYTES + 1);
    assert!(refused(&archive(&[file(&long, "")])).ends_with("a path has 1025 bytes; at most 1024 are allowed"));
    assert!(refused(&[archive(&[]), vec![0]].concat()).ends_with("there are bytes after its end"));
    assert!(refused(b"something else").ends_with("it does not begin like a folder's archive"));
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = archive(&[entry(FOLDER, "a", &[]), file("a/x", "contents"), link("b", "a/x")]);
    for length in 0..whole.len() {
        let message = refused(&whole[..length]);
        assert!(message.ends_with(&format!("byte {length}: it ends here, within an entry; it is cut short")), "{message}");
    }
    // A size that is a lie makes nobody allocate or wait for it.
    let lie = archive(&[entry(FILE, "a", &u64::MAX.to_le_bytes())]);
    assert!(refused(&lie).ends_with("it is cut short"));
}

#[test]
fn what_has_no_place_in_an_archive_is_refused() {
    let refused = |make: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        make(&folder.path().join("thing"));
        let error = measure(folder.path()).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    let socket = |at: &Path| drop(std::os::unix::net::UnixListener::bind(at).unwrap());
    assert_eq!(refused(&socket), "thing is neither a file, a folder nor a link; a module cannot hold devices, sockets or pipes");
    assert_eq!(refused(&|at| symlink("/etc", at).unwrap()), "thing is a link to the absolute path /etc; make it relative");
    assert_eq!(
        refused(&|at| fs::write(at.with_file_name("a\nb"), "").unwrap()),
        "a\nb has a control character in its name; rename it"
    );
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"\xff");
    assert!(refused(&|at| fs::write(at.with_file_name(name), "").unwrap()).ends_with("has a name that is not UTF-8; rename it"));
}

/// What a made-up folder holds.
#[derive(Debug, Clone)]
enum Item {
    File(Vec<u8>, bool),
    Folder(Vec<(String, Item)>),
    Link(String),
}

fn items() -> impl Strategy<Value = Vec<(String, Item)>> {
    let name = "[a-cA-C.é -]{1,3}".prop_filter("is no name", |name| name != "." && name != "..");
    let leaf = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..200), any::<bool>()).prop_map(|(bytes, executable)| Item::File(bytes, executable)),
        "[a-c]{1,3}(/[a-c]{1,2}){0,2}".prop_map(Item::Link),
    ];
    let item = leaf.prop_recursive(3, 24, 5, {
        let name = name.clone();
        move |inner| prop::collection::vec((name.clone(), inner), 0..5).prop_map(Item::Folder)
    });
    prop::collection::vec((name, item), 0..6)
}

fn make(at: &Path, items: &[(String, Item)]) {
    for (name, item) in items {
        let path = at.join(name);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match item {
            Item::File(bytes, executable) => {
                fs::write(&path, bytes).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Item::Folder(items) => {
                fs::create_dir(&path).unwrap();
                make(&path, items);
            }
            Item::Link(target) => symlink(target, &path).unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_folder_comes_back_as_it_was(items in items()) {
        let around = tempfile::tempdir().unwrap();
        let (first, second) = (around.path().join("first"), around.path().join("second"));
        fs::create_dir(&first).unwrap();
        make(&first, &items);
        let bytes = packed(&first);
        unpack_bytes(&bytes, &second).unwrap();
        prop_assert_eq!(listing(&first), listing(&second));
        prop_assert_eq!(packed(&second), bytes);
    }

    #[test]
    fn no_archive_reaches_outside_and_what_is_accepted_is_canonical(
        entries in prop::collection::vec((0u8..6, "(\\.\\./|/|[ab]/|\\./){0,3}[ab.]{1,2}", "(\\.\\./|/|[ab]/){0,3}[ab.]{1,2}"), 0..6),
        sorted in any::<bool>(),
    ) {
        let around = tempfile::tempdir().unwrap();
        let parent = around.path().join("parent");
        fs::create_dir(&parent).unwrap();
        fs::write(around.path().join("a"), "outside").unwrap();
        let mut entries = entries;
        if sorted {
            entries.sort_by(|x, y| order(&x.1, &y.1));
        }
        let entries: Vec<_> = entries.iter().map(|(kind, path, other)| match *kind {
            LINK => link(path, other),
            FOLDER => entry(FOLDER, path, &[]),
            FILE | EXECUTABLE => entry(*kind, path, &[&1u64.to_le_bytes()[..], b"x"].concat()),
            kind => entry(kind, path, other.as_bytes()),
        }).collect();
        let bytes = archive(&entries);
        let inside = parent.join("inside");
        let result = unpack_bytes(&bytes, &inside);
        let outside: Vec<_> = listing(around.path()).into_keys().filter(|path| !path.starts_with("parent/inside")).collect();
        prop_assert_eq!(outside, ["a", "parent"]);
        prop_assert_eq!(fs::read(around.path().join("a")).unwrap(), b"outside");
        prop_assert_eq!(check(bytes.as_slice(), bytes.len() as u64).is_ok(), result.is_ok());
        if result.is_ok() {
            prop_assert_eq!(packed(&inside), bytes);
            for (path, (kind, ..)) in listing(&inside) {
                if kind == 'l' && let Ok(real) = fs::canonicalize(inside.join(&path)) {
                    prop_assert!(real.starts_with(fs::canonicalize(&inside).unwrap()), "{path} leads to {}", real.display());
                }
            }
        } else {
            prop_assert!(!inside.exists());
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let around = tempfile::tempdir().unwrap();
        let bytes = [MAGIC.as_slice(), &bytes].concat();
        let _ = unpack_bytes(&bytes, &around.path().join("inside"));
    }
}
