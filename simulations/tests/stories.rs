//! Each story in `scenarios/` comes out as it is written beside it. With `TRIBUNE_STORIES=write` it is written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tribune-simulations");

fn stories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = fs::read_dir(folder).expect("there are scenarios").map(|entry| entry.expect("a file").path());
    let mut stories: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "story")).collect();
    stories.sort();
    stories
}

/// What is different, if anything.
fn check(story: &Path) -> Option<String> {
    let output = Command::new(PROGRAM).arg("scenario").arg(story).output().expect("a story is told");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let file = story.with_extension("out");
    if std::env::var("TRIBUNE_STORIES").is_ok_and(|what| what == "write") {
        fs::write(&file, &told).expect("what was told is written");
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    let name = story.file_stem().unwrap_or_default().to_string_lossy();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Some(format!("{name} does not hold:\n{told}{errors}"));
    }
    (told != known).then(|| format!("{name} comes out differently. It was:\n{known}\nand is:\n{told}"))
}

#[test]
fn every_story_comes_out_as_it_is_written() {
    let stories = stories();
    assert!(!stories.is_empty());
    let half = stories.len().div_ceil(2);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = stories
            .chunks(half)
            .map(|some| scope.spawn(move || some.iter().filter_map(|story| check(story)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_story_with_a_mistake_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.story");
    for (line, right) in [
        ("submit web 1.0.0 on n4", "n1 to n3"),
        ("cancel u3", "say `cancel` alone; `of uN`"),
        ("of web", "say which update: `of uN`"),
    ] {
        fs::write(&file, format!("nodes 3\n{line}\n")).expect("a story is written");
        let output = Command::new(PROGRAM).arg("scenario").arg(&file).output().expect("it is tried");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("line 2") && said.contains(right), "{said}");
    }
}
