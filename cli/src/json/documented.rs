//! docs/JSON.md, held against the code.
//!
//! One idea: each example there is read into the view of its document and written again. What comes out must be the example: so no field
//! is missing in it, none is there that no command prints, and each has the right type.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tribune_raft_store::model::{EventKind, Step};

use super::*;

const DOCUMENTED: &str = include_str!("../../../docs/JSON.md");

/// Reads the fields of a document into its view, and writes that.
type Again = fn(Value) -> Value;

fn again<T: Serialize + DeserializeOwned>(fields: Value) -> Value {
    let view: T = serde_json::from_value(fields.clone()).unwrap_or_else(|error| panic!("{error}: {fields}"));
    serde_json::to_value(view).unwrap()
}

const DOCUMENTS: [(&str, Again); 34] = [
    ("error", again::<ErrorView>),
    ("done", again::<DoneView>),
    ("initialised", again::<InitialisedView>),
    ("joined", again::<JoinedView>),
    ("token", again::<TokenView>),
    ("key", again::<KeyView>),
    ("status", again::<StatusView>),
    ("nodes", again::<Many<NodeView>>),
    ("node", again::<NodeView>),
    ("settings", again::<SettingsView>),
    ("classes", again::<Many<ClassView>>),
    ("class", again::<ClassView>),
    ("principals", again::<Many<PrincipalView>>),
    ("unmet", again::<Many<UnmetView>>),
    ("processes", again::<Many<ProcessView>>),
    ("process", again::<ProcessView>),
    ("log", again::<LogView>),
    ("event", again::<EventView>),
    ("package", again::<PackageView>),
    ("packages", again::<Many<PackageView>>),
    ("file", again::<FileView>),
    ("built", again::<BuiltView>),
    ("published", again::<PublicationView>),
    ("retained", again::<RetainedView>),
    ("plan", again::<PlanView>),
    ("submitted", again::<SubmittedView>),
    ("update", again::<UpdateView>),
    ("updates", again::<Many<SummaryView>>),
    ("fsck", again::<FsckView>),
    ("backup", again::<BackupView>),
    ("restored", again::<RestoredView>),
    ("recovered", again::<RecoveredView>),
    ("local", again::<LocalView>),
    ("local_regressed", again::<GenerationView>),
];

/// The sections of docs/JSON.md that describe a document: its name, and its text.
fn sections() -> Vec<(&'static str, &'static str)> {
    let parts = DOCUMENTED.split("\n## `").skip(1);
    parts.map(|part| part.split_once('`').unwrap()).collect()
}

fn examples(section: &'static str) -> Vec<Value> {
    let blocks = section.split("```json\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn every_example_in_the_documents_is_what_the_code_writes() {
    for (name, section) in sections() {
        let again = DOCUMENTS.iter().find(|(known, _)| *known == name).map(|(_, again)| again);
        let again = again.unwrap_or_else(|| panic!("docs/JSON.md describes {name}; add it to DOCUMENTS"));
        let examples = examples(section);
        assert!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            let mut fields = example.as_object().unwrap().clone();
            let head = (fields.remove("format"), fields.remove("document"));
            assert_eq!(head, (Some(FORMAT.into()), Some(name.into())), "the example of {name}");
            let written = again(Value::Object(fields.clone()));
            assert_eq!(
                written,
                Value::Object(fields),
                "the example of {name} in docs/JSON.md, to the right, is not what is written, to the left"
            );
        }
    }
}

/// The names of all documents that are written somewhere in these files.
fn written(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            written(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for call in ["print.show(\"", ".format()).show(\"", "Document::new(\""] {
            found.extend(text.split(call).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

#[test]
fn every_document_that_is_written_is_described_and_no_other() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    written(&source.join("commands"), &mut found);
    written(&source.join("output"), &mut found);
    let described: BTreeSet<String> = sections().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, described, "what is written, and what docs/JSON.md describes");
}

/// Checks that a list has all of an enum: a new one does not compile.
macro_rules! all_of {
    ($type:ident: $($variant:ident)*) => {{
        let _ = |value: $type| match value { $($type::$variant => ()),* };
        [$(super::word(&$type::$variant)),*]
    }};
}

#[test]
fn every_word_for_an_event_or_a_step_is_described() {
    let kinds = all_of!(EventKind: ClusterCreated ClusterRecovered NodeJoined NodeChanged RaftRoleChanged PackagePublished PackageRemoved ClassChanged
        UpdateSubmitted UpdatePhase Veto Decision NodeFailed NodeAway NodeApart NodeRestarted NodeRemoved CloneRefused
        SettingsChanged Discrepancy DiscrepancyRepaired AccessChanged);
    let steps = all_of!(Step: Planned Asked Voted Staged Pending Ready Go Started Settled Persisted Regressed Failed Away);
    for (row, words) in [("| `kind` | `cluster_created`", &kinds[..]), ("| `step` |", &steps[..])] {
        let row = DOCUMENTED.lines().find(|line| line.starts_with(row)).unwrap();
        for word in words {
            assert!(row.contains(&format!("`{word}`")), "{word} is not in docs/JSON.md: {row}");
        }
    }
}
