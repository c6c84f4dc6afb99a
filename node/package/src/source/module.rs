//! Reads one `[[module]]`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tribune_raft_store::model::{
    Ask, Changeover, CharacteristicKey, Health, Module, ModuleKind, Platform, Signature, Silent, Strategy, WhenAffected,
};

use super::document::{Document, Fields, Place};
use super::{Origin, SourceError};

const MODULE_FIELDS: [&str; 13] = [
    "name",
    "platform",
    "path",
    "characteristics",
    "run",
    "listen",
    "depends-on",
    "provides",
    "consumes",
    "when-affected",
    "changeover",
    "ask",
    "health",
];
const CHANGEOVER_FIELDS: [&str; 3] = ["strategy", "ready-within", "drain-within"];
const ASK_FIELDS: [&str; 3] = ["how", "within", "silent"];
const HEALTH_FIELDS: [&str; 5] = ["http", "tcp", "exec", "every", "settle"];

/// A module as described: complete but for signature and size, which its bytes will tell.
pub(super) struct Draft {
    pub(super) module: Module,
    pub(super) origin: Origin,
    /// Where it is described.
    pub(super) place: Place,
    /// Where its path is.
    pub(super) path_place: Place,
    /// Where its dependencies are.
    pub(super) needs_place: Place,
}

/// The folder of the description, beyond which no path may lead.
pub(super) struct Root {
    folder: PathBuf,
    real: PathBuf,
}

impl Root {
    pub(super) fn of(document: &Document) -> Result<Self, SourceError> {
        let folder = match document.file().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let real = fs::canonicalize(folder).map_err(|source| SourceError::Unreadable { file: folder.into(), source })?;
        Ok(Self { folder: folder.into(), real })
    }

    /// The file or folder that a `path` names; the error says what is wrong with it.
    fn find(&self, text: &str) -> Result<Origin, String> {
        let path = Path::new(text);
        if path.is_absolute() {
            return Err(format!("{text:?} is absolute; paths are relative to the folder of this file"));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("{text:?} has \"..\", which could lead out of the package's folder; move the file into it"));
        }
        if !path.components().any(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("{text:?} is the package's folder itself; name a file or folder in it"));
        }
        let at = self.folder.join(path);
        let real = fs::canonicalize(&at).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no {}; build it first, or correct the path", at.display()),
            _ => format!("{} cannot be read: {error}", at.display()),
        })?;
        if !real.starts_with(&self.real) || real == self.real {
            return Err(format!(
                "{text:?} is a link to {}, out of the package's folder; copy it into the folder",
                real.display()
            ));
        }
        let kind = fs::metadata(&real).map_err(|error| format!("{} cannot be read: {error}", at.display()))?.file_type();
        match (kind.is_file(), kind.is_dir()) {
            (true, _) => Ok(Origin { path: real, kind: ModuleKind::File }),
            (_, true) => Ok(Origin { path: real, kind: ModuleKind::Folder }),
            _ => Err(format!("{} is neither a file nor a folder; a module is one of these", at.display())),
        }
    }
}

pub(super) fn read(document: &Document, root: &Root, table: &DeTable<'_>, place: Place) -> Result<Draft, SourceError> {
    let name = table.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, value)| value.get_ref().as_str());
    let what = name.map_or_else(|| "[[module]]".to_owned(), |name| format!("module {:.80}", name.escape_debug().to_string()));
    let fields = document.fields(what, table, place.clone(), &MODULE_FIELDS)?;
    let name = fields.required("name", "\"billingd\"", fields.parsed("name")?)?;
    let (path, path_place) = fields.required("path", "\"target/release/billingd\"", fields.string("path")?)?;
    let origin =
        root.find(path).map_err(|problem| document.error(path_place.clone(), format!("path in module {name}: {problem}")))?;
    let module = Module {
        platform: fields.parsed::<Platform>("platform")?.unwrap_or_default(),
        // The bytes are read when the whole description is known to be right; see `super::read`.
        signature: Signature::of(b""),
        size: 0,
        kind: origin.kind,
        characteristics: characteristics(&fields)?,
        run: command(&fields, "run")?,
        listen: fields.parsed_list("listen")?,
        depends_on: fields.parsed_list("depends-on")?,
        provides: fields.parsed_list("provides")?,
        consumes: fields.parsed_list("consumes")?,
        when_affected: fields.choice(
            "when-affected",
            &[("notify", WhenAffected::Notify), ("reload", WhenAffected::Reload), ("restart", WhenAffected::Restart)],
        )?,
        changeover: changeover(&fields)?,
        ask: ask(&fields)?,
        health: health(&fields)?,
        name,
    };
    let needs_place = fields.value("depends-on").map_or_else(|| place.clone(), Spanned::span);
    Ok(Draft { module, origin, place, path_place, needs_place })
}

fn characteristics(fields: &Fields<'_>) -> Result<BTreeMap<CharacteristicKey, String>, SourceError> {
    let mut all = BTreeMap::new();
    let Some((table, _)) = fields.table("characteristics")? else { return Ok(all) };
    for (key, value) in table {
        let document = fields.document;
        let name: CharacteristicKey = key.get_ref().parse().map_err(|error| document.error(key.span(), format!("{error}")))?;
        let what = format!("characteristic {name}");
        let text = match value.get_ref() {
            DeValue::String(text) => plain_text(&what, text).map_err(|problem| document.error(value.span(), problem))?,
            DeValue::Boolean(yes) => yes.to_string(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| document.error(value.span(), format!("{what} is out of range; write it as a string")))?
                .to_string(),
            _ => return Err(fields.wrong_type(&what, value, "a string, an integer or a boolean")),
        };
        all.insert(name, text);
    }
    Ok(all)
}

/// A command: its first item is what is run.
fn command(fields: &Fields<'_>, key: &str) -> Result<Vec<String>, SourceError> {
    let items = fields.strings(key)?;
    if let (Some(value), true) = (fields.value(key), items.first().is_none_or(|(text, _)| text.is_empty())) {
        let problem = format!("{key} names no command; begin it with one, or leave {key} out");
        return Err(fields.document.error(value.span(), problem));
    }
    let item = |(text, place): (&str, Place)| plain_text(key, text).map_err(|problem| fields.document.error(place, problem));
    items.into_iter().map(item).collect()
}

fn changeover(fields: &Fields<'_>) -> Result<Changeover, SourceError> {
    let default = Changeover::default();
    let Some((table, place)) = fields.table("changeover")? else { return Ok(default) };
    let fields = fields.document.fields("changeover", table, place, &CHANGEOVER_FIELDS)?;
    let strategies = [("overlap", Strategy::Overlap), ("stop-first", Strategy::StopFirst), ("reload", Strategy::Reload)];
    Ok(Changeover {
        strategy: fields.choice("strategy", &strategies)?,
        ready_within: fields.parsed("ready-within")?.unwrap_or(default.ready_within),
        drain_within: fields.parsed("drain-within")?.unwrap_or(default.drain_within),
    })
}

fn ask(fields: &Fields<'_>) -> Result<Ask, SourceError> {
    let default = Ask::default();
    let Some((table, place)) = fields.table("ask")? else { return Ok(default) };
    let fields = fields.document.fields("ask", table, place, &ASK_FIELDS)?;
    if let Some((text, place)) = fields.string("how")? {
        plain_text("how in ask", text).map_err(|problem| fields.document.error(place, problem))?;
    }
    Ok(Ask {
        how: fields.parsed("how")?.unwrap_or(default.how),
        within: fields.parsed("within")?.unwrap_or(default.within),
        silent: fields.choice("silent", &[("veto", Silent::Veto), ("accept", Silent::Accept)])?,
    })
}

fn health(fields: &Fields<'_>) -> Result<Option<Health>, SourceError> {
    let Some((table, place)) = fields.table("health")? else { return Ok(None) };
    let fields = fields.document.fields("health", table, place, &HEALTH_FIELDS)?;
    let url = |text: &str| match text.strip_prefix("http://") {
        Some(rest) if !rest.is_empty() && text.len() <= 4096 && !text.chars().any(|c| c.is_control() || c == ' ') => {
            Ok(text.to_owned())
        }
        _ => Err(format!("{text:?} is not a URL to ask; use one such as \"http://127.0.0.1:8080/health\"")),
    };
    let address =
        |text: &str| text.parse().map_err(|_| format!("{text:?} is not an address; use IP:PORT, such as \"127.0.0.1:8080\""));
    // Every field of a Health has a default, as a test here shows by leaving all out.
    let default: Health = serde_json::from_str("{}").expect("an empty health is a health");
    Ok(Some(Health {
        http: fields.parsed_as("http", url)?,
        tcp: fields.parsed_as("tcp", address)?,
        exec: command(&fields, "exec")?,
        every: fields.parsed("every")?.unwrap_or(default.every),
        settle: fields.parsed("settle")?.unwrap_or(default.settle),
    }))
}

/// A text for people and command lines: short, without control characters.
pub(super) fn plain_text(what: &str, text: &str) -> Result<String, String> {
    if text.len() > 4096 {
        Err(format!("{what} has {} bytes; at most 4096 are allowed", text.len()))
    } else if text.chars().any(char::is_control) {
        Err(format!("{what} has a control character; take it out"))
    } else {
        Ok(text.to_owned())
    }
}
