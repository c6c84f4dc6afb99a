//! How the program ends when nobody reads what it prints, and when its arguments are wrong.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};

fn tribune(args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tribune"));
    command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn a_reader_that_has_gone_ends_it_quietly_and_a_full_disk_is_told() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = tribune(&["completions", "bash"], writer.into());
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(141), ""));

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = tribune(&["completions", "bash"], full.into());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.starts_with("error: standard output cannot be written"), "{said}");
}

#[test]
fn wrong_arguments_are_a_document_for_who_asked_for_json() {
    let ended = tribune(&["nosuch", "-o", "json"], Stdio::piped());
    let document: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!((ended.status.code(), &document["document"], &document["exit"]), (Some(2), &"error".into(), &2.into()));
    assert_eq!(document["what"], "unrecognized subcommand 'nosuch'");
}
