//! Containers there and back, cut and damaged everywhere.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};

use proptest::prelude::*;
use tribune_raft_store::model::{Manifest, ModuleKind};

use super::*;
use crate::targets::Targets;

/// A package of modules with these bytes, named m0, m1, …
fn manifest(name: &str, version: &str, modules: &[Vec<u8>]) -> Manifest {
    let modules: Vec<_> = modules
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            serde_json::json!({ "name": format!("m{i}"), "platform": "linux/amd64", "signature": Signature::of(bytes), "size": bytes.len() })
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "format": 1, "name": name, "version": version, "module": modules })).unwrap()
}

fn build(header: &Header, modules: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::<ContainerError>(header, &mut bytes, |signature, out| {
        let module = modules.iter().find(|module| Signature::of(module) == *signature).unwrap();
        out.write_all(module).map_err(ContainerError::Output)
    })
    .unwrap();
    bytes
}

/// Reads all of a container as its users do.
fn read_all(bytes: &[u8]) -> Result<(Header, Vec<Vec<u8>>), ContainerError> {
    let mut reader = ContainerReader::open(bytes)?;
    let mut blobs = Vec::new();
    while let Some(mut blob) = reader.next_blob()? {
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|error| error.downcast::<ContainerError>().unwrap())?;
        assert_eq!((blob.size(), blob.signature()), (bytes.len() as u64, Signature::of(&bytes)));
        blobs.push(bytes);
    }
    assert_eq!(reader.position(), bytes.len() as u64);
    assert!(reader.next_blob()?.is_none());
    Ok((reader.header().clone(), blobs))
}

fn refused(bytes: &[u8]) -> String {
    read_all(bytes).map(|(header, _)| header).unwrap_err().to_string()
}

/// A container of two modules of several 4 KiB each, and where its first blob begins and the second ends.
fn example() -> (Vec<u8>, usize, usize) {
    let modules: Vec<Vec<u8>> =
        vec![(0..20_000u32).map(|i| (i * 7) as u8).collect(), (0..9_000u32).map(|i| (i / 3) as u8).collect()];
    let header = Header::new(vec![manifest("billing", "1.0.0", &modules)], None).unwrap();
    let bytes = build(&header, &modules);
    let end = bytes.len() - 32;
    (bytes, end - 29_000, end)
}

#[test]
fn what_was_written_is_read() {
    let modules = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
    let packages = vec![manifest("rates", "1.0.0", &modules[..1]), manifest("billing", "2.0.0", &modules)];
    let targets: Targets =
        serde_json::from_str(r#"{"nodes":{"n1":["billing","rates@1.0.0"]},"classes":{"edge":["rates"]}}"#).unwrap();
    let header = Header::new(packages, Some(targets.clone())).unwrap();
    let (read, blobs) = read_all(&build(&header, &modules)).unwrap();
    assert_eq!(read, header);
    assert_eq!(read.targets(), Some(&targets));
    assert_eq!(read.packages()[0].name.as_str(), "billing", "packages are sorted");
    assert_eq!(read.blob_bytes(), 8);
    let mut wanted = modules.clone();
    wanted.sort_by_key(|bytes| Signature::of(bytes));
    assert_eq!(blobs, wanted, "each once, by signature");
    let shared = &read.blobs()[&Signature::of(b"one")];
    assert_eq!(shared.modules, ["billing/m0 (linux/amd64)", "rates/m0 (linux/amd64)"]);
}

#[test]
fn blobs_that_nobody_reads_are_verified_all_the_same() {
    let (mut bytes, begin, _) = example();
    ContainerReader::open(bytes.as_slice()).unwrap().verify_rest().unwrap();
    bytes[begin + 100] ^= 1;
    let mut reader = ContainerReader::open(bytes.as_slice()).unwrap();
    let error = reader.verify_rest().unwrap_err();
    assert!(matches!(error, ContainerError::Mismatch { .. }), "{error}");
    assert!(matches!(reader.next_blob(), Err(ContainerError::Broken)));
}

#[test]
fn the_last_byte_of_a_damaged_blob_is_never_handed_out() {
    let (mut bytes, begin, end) = example();
    bytes[begin] ^= 1;
    let mut reader = ContainerReader::open(bytes.as_slice()).unwrap();
    let mut blob = reader.next_blob().unwrap().unwrap();
    let mut read = vec![0; blob.size() as usize];
    assert!(blob.read_exact(&mut read).is_err(), "although it asks for no more than there is");
    assert!(blob.read(&mut read).is_err(), "nor is it at its end afterwards");
    assert!(end > begin);
}

#[test]
fn a_container_cut_anywhere_names_where() {
    let (bytes, begin, end) = example();
    let first_ends = begin + read_all(&bytes).unwrap().1[0].len();
    let everywhere_in_the_header = 0..begin;
    let every_4_kib = (0..bytes.len()).step_by(4096);
    for at in
        everywhere_in_the_header.chain(every_4_kib).chain([begin, first_ends, first_ends + 1, end, end + 1, bytes.len() - 1])
    {
        let within = match at {
            _ if at < begin => "its header".to_owned(),
            _ if at < end => {
                let (_, blob) = ContainerReader::open(bytes.as_slice())
                    .unwrap()
                    .header()
                    .blobs()
                    .clone()
                    .into_iter()
                    .nth((at >= first_ends).into())
                    .unwrap();
                format!("module {}", blob.modules[0])
            }
            _ => "its trailer".to_owned(),
        };
        assert_eq!(
            refused(&bytes[..at]),
            format!("it ends at byte {at}, within {within}: it is cut short; copy or build it again")
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_names_the_module_or_the_header() {
    let (bytes, begin, end) = example();
    let places = (0..begin + 10).chain((begin..end).step_by(97)).chain(end..bytes.len());
    for at in places {
        for bit in [0, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let message = refused(&damaged);
            let right = match at {
                _ if at < 8 => message.starts_with("this is no Tribune package or image"),
                _ if at < 12 => message.starts_with("it has container format"),
                // A false length: too long, or the hash is looked for in the wrong place.
                _ if at < 16 => message.contains("its header"),
                _ if at < begin => message.starts_with("its header is damaged"),
                _ if at < end => message.starts_with("module billing/m") && message.contains(" is damaged"),
                _ => message.starts_with("its trailer is damaged"),
            };
            assert!(right, "bit {bit} of byte {at}: {message}");
        }
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let (mut bytes, _, _) = example();
    let at = bytes.len();
    bytes.push(0);
    let message =
        format!("there are bytes after its end, at byte {at}; it is damaged or was appended to; copy or build it again");
    assert_eq!(refused(&bytes), message);
}

/// A container whose header is this text, with the right hash.
fn with_header(text: &str) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &1u32.to_le_bytes(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    bytes.extend(Signature::of(&bytes).as_bytes());
    bytes
}

#[test]
fn a_header_that_was_made_by_hand_is_refused() {
    let good = manifest("billing", "1.0.0", &[b"x".to_vec()]).canonical();
    let quoted = serde_json::to_string(&good).unwrap();
    let two_sizes = manifest("rates", "1.0.0", &[b"x".to_vec()]).canonical().replace("\"size\":1", "\"size\":2");
    for (text, message) in [
        (r#"{"packages":[]}"#.to_owned(), "its header is not valid: it has no package"),
        (format!(r#"{{"packages":[{quoted},{quoted}]}}"#), "its header is not valid: it has package billing@1.0.0 twice"),
        (
            format!(r#"{{"packages":[{quoted}],"more":1}}"#),
            "its header is not valid: unknown field `more`, expected `packages` or `targets`",
        ),
        (format!(r#"{{"packages":[{quoted} ]}}"#), "its header is not valid: it is not in canonical form (RFC 8785)"),
        (
            r#"{"packages":["{}"]}"#.to_owned(),
            "its package number 1 is not valid: the manifest cannot be read: missing field `format`",
        ),
        (
            format!(r#"{{"packages":[{quoted},{}]}}"#, serde_json::to_string(&two_sizes).unwrap()),
            "its header is not valid: modules billing/m0 (linux/amd64) and rates/m0 (linux/amd64) have one signature, and differ in size or kind",
        ),
        (
            format!(r#"{{"packages":[{quoted}],"targets":{{"nodes":{{"n1":["rates"]}}}}}}"#),
            "node n1 gets package rates in the target list, which the image does not have; it has billing@1.0.0",
        ),
        (
            format!(r#"{{"packages":[{quoted}],"targets":{{"nodes":{{"../n1":["billing"]}}}}}}"#),
            "its header is not valid: node name \"../n1\" is not valid",
        ),
        (
            format!(r#"{{"packages":[{}]}}"#, quoted.replace("m0", "../m0")),
            "its package number 1 is not valid: the manifest cannot be read: module name \"../m0\" is not valid",
        ),
        (
            format!(r#"{{"packages":[{}]}}"#, quoted.replace("m0", "/m0")),
            "its package number 1 is not valid: the manifest cannot be read: module name \"/m0\" is not valid",
        ),
    ] {
        let found = refused(&with_header(&text));
        assert!(found.starts_with(message), "{found}");
    }
    let long = [MAGIC.as_slice(), &1u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
    assert!(refused(&long).starts_with("its header has 4294967295 bytes, and at most 16777216 are allowed"));
    assert!(refused(b"PK\x03\x04 and so on").starts_with("this is no Tribune package or image"));
}

#[test]
fn an_image_with_a_path_that_leads_out_is_refused_with_its_module() {
    let archive =
        |path: &str| [b"TRIBDIR\x01\x02", &(path.len() as u16).to_le_bytes()[..], path.as_bytes(), &[0; 8], &[0]].concat();
    for (path, message) in [
        ("/etc/passwd", Some("\"/etc/passwd\" has an absolute path; paths are relative to the module's folder")),
        ("../x", Some("\"../x\" has \"..\" in its path, which could lead out of the module's folder")),
        ("x", None),
    ] {
        let bytes = vec![archive(path)];
        let mut package = manifest("billing", "1.0.0", &bytes);
        package.modules[0].kind = ModuleKind::Folder;
        let container = build(&Header::new(vec![package], None).unwrap(), &bytes);
        let found = ContainerReader::open(container.as_slice()).unwrap().verify_rest().err().map(|error| error.to_string());
        let message = message
            .map(|text| format!("module billing/m0 (linux/amd64) is not valid: the archive is not valid at byte 8: {text}"));
        assert_eq!(found, message);
    }
}

#[test]
fn a_folder_that_is_copied_out_is_whole_and_damage_is_called_damage() {
    let bytes = vec![b"TRIBDIR\x01\0".to_vec()];
    let mut package = manifest("billing", "1.0.0", &bytes);
    package.modules[0].kind = ModuleKind::Folder;
    let container = build(&Header::new(vec![package], None).unwrap(), &bytes);
    let copy = |container: &[u8], output: &mut dyn Write| {
        let mut reader = ContainerReader::open(container).unwrap();
        let blob = reader.next_blob().unwrap().unwrap();
        blob.copy_to(&mut { output }).map_err(|error| error.to_string())
    };
    let mut out = Vec::new();
    copy(&container, &mut out).unwrap();
    assert_eq!(out, bytes[0]);
    for at in container.len() - 32 - 9..container.len() - 32 {
        let mut damaged = container.clone();
        damaged[at] ^= 4;
        let message = copy(&damaged, &mut Vec::new()).unwrap_err();
        assert!(message.starts_with("module billing/m0 (linux/amd64) is damaged"), "{message}");
        let message = copy(&container[..at], &mut Vec::new()).unwrap_err();
        assert!(message.starts_with(&format!("it ends at byte {at}, within module billing/m0")), "{message}");
    }
    let mut full = [0; 3];
    assert_eq!(copy(&container, &mut full.as_mut_slice()).unwrap_err(), "writing failed: failed to write whole buffer");
}

#[test]
fn a_writer_refuses_bytes_that_are_not_those_announced() {
    let module = b"the right bytes".to_vec();
    let header = Header::new(vec![manifest("billing", "1.0.0", std::slice::from_ref(&module))], None).unwrap();
    let with = |bytes: &[u8]| {
        write::<ContainerError>(&header, std::io::sink(), |_, out| out.write_all(bytes).map_err(ContainerError::Output))
            .unwrap_err()
            .to_string()
    };
    assert!(with(b"the wrong bytes").starts_with("module billing/m0 (linux/amd64) is damaged"));
    assert!(with(b"the right").starts_with("module billing/m0 (linux/amd64) is damaged"));
    assert_eq!(with(b"the right bytes, and more"), "writing failed: the module became longer while it was being written");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_container_reads_back_and_has_one_form(modules in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..5)) {
        let packages = vec![manifest("a", "1.0.0", &modules), manifest("b", "1.2.3-rc.1+x", &modules[..1])];
        let header = Header::new(packages.clone(), None).unwrap();
        let bytes = build(&header, &modules);
        let (read, _) = read_all(&bytes).unwrap();
        prop_assert_eq!(&read, &header);
        let reversed = Header::new(packages.into_iter().rev().collect(), None).unwrap();
        prop_assert_eq!(build(&reversed, &modules), bytes);
    }

    #[test]
    fn any_damage_is_refused_without_a_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let (mut bytes, _, _) = example();
        let at = at.index(bytes.len());
        if bytes[at] != value {
            bytes[at] = value;
            prop_assert!(read_all(&bytes).is_err());
        }
        prop_assert!(read_all(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
