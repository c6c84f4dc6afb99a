//! A package's manifest: its version, its modules and what they need and offer.
//!
//! One idea: the manifest is kept and hashed as the exact text it was built as (RFC 8785 JSON), and read into these
//! types; an unknown field is refused, so nothing that is in the text is ever dropped by reading it.

use std::collections::{BTreeMap, BTreeSet};

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use super::ids::{CharacteristicKey, ModuleName, PackageId, PackageName, Signature, Span};
use super::notation::{ApiConsumed, ApiProvided, AskHow, Listen, ModuleDependency, Platform};

/// The manifest format this build writes and reads.
pub const MANIFEST_FORMAT: u32 = 1;
/// The longest manifest text that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// The most modules a package may have.
pub const MAX_MODULES: usize = 1024;

/// A package's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// The manifest format: [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The package's name.
    pub name: PackageName,
    /// The package's version (semver).
    pub version: Version,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Which versions this one may replace in place; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_from: Option<VersionReq>,
    /// Whether the node may go back from this version.
    #[serde(default, skip_serializing_if = "Regress::is_yes")]
    pub regress: Regress,
    /// The modules, sorted by name, platform and characteristics.
    #[serde(rename = "module")]
    pub modules: Vec<Module>,
}

/// Whether a package's data allows going back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regress {
    /// It can go back.
    #[default]
    Yes,
    /// Its data cannot go back: a failed update is held.
    No,
}

impl Regress {
    fn is_yes(&self) -> bool {
        *self == Regress::Yes
    }
}

/// One installable artifact of a package, for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Module {
    /// Its name; several modules of one name differ by platform or characteristics.
    pub name: ModuleName,
    /// The platform it is for.
    #[serde(default)]
    pub platform: Platform,
    /// The BLAKE3 of its bytes (of the canonical archive, for a folder).
    pub signature: Signature,
    /// The length of its bytes.
    pub size: u64,
    /// Whether its bytes are a file or the archive of a folder.
    #[serde(default)]
    pub kind: ModuleKind,
    /// What a node must be like to get it; all must match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub characteristics: BTreeMap<CharacteristicKey, String>,
    /// The command it runs as; empty: a library or data module.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// Sockets the node opens and passes on, such as `tcp://127.0.0.1:8080`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<Listen>,
    /// Modules it needs on the same node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ModuleDependency>,
    /// APIs it provides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<ApiProvided>,
    /// APIs it consumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumes: Vec<ApiConsumed>,
    /// What happens to it when something it depends on changes.
    #[serde(default)]
    pub when_affected: WhenAffected,
    /// How it is replaced.
    #[serde(default)]
    pub changeover: Changeover,
    /// How it is asked.
    #[serde(default)]
    pub ask: Ask,
    /// How its health is known; `None`: it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// What a module's bytes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// One file.
    #[default]
    File,
    /// The canonical archive of a folder.
    Folder,
}

/// What happens to a running module when something it depends on changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAffected {
    /// It is told, and goes on.
    #[default]
    Notify,
    /// It is told to read its inputs again (SIGHUP).
    Reload,
    /// It is restarted.
    Restart,
}

/// How old and new follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The new one starts while the old one still serves.
    #[default]
    Overlap,
    /// The old one stops before the new one starts.
    StopFirst,
    /// The process stays and is told that its module changed.
    Reload,
}

/// How a module is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Changeover {
    /// How old and new follow each other.
    pub strategy: Strategy,
    /// How long it may take to reach a safe point.
    pub ready_within: Span,
    /// How long it may take to end once replaced.
    pub drain_within: Span,
}

impl Default for Changeover {
    fn default() -> Self {
        Self { strategy: Strategy::default(), ready_within: Span::from_secs(10), drain_within: Span::from_secs(30) }
    }
}

/// What silence means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silent {
    /// A process that does not answer has vetoed.
    #[default]
    Veto,
    /// A process that does not answer has accepted.
    Accept,
}

/// How a module's process is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Ask {
    /// By what means.
    pub how: AskHow,
    /// How long it may take to answer.
    pub within: Span,
    /// What silence means.
    pub silent: Silent,
}

impl Default for Ask {
    fn default() -> Self {
        Self { how: AskHow::default(), within: Span::from_secs(5), silent: Silent::default() }
    }
}

/// How a module's health is known. Without `http`, `tcp` and `exec`, by `sd_notify` if it speaks it, else by its being alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Health {
    /// A URL that answers 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// An address that accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<std::net::SocketAddr>,
    /// A command that exits with 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// How often it is checked.
    #[serde(default = "Health::default_every")]
    pub every: Span,
    /// How long it must hold before the changeover counts as settled.
    #[serde(default = "Health::default_settle")]
    pub settle: Span,
}

impl Health {
    fn default_every() -> Span {
        Span::from_secs(2)
    }

    fn default_settle() -> Span {
        Span::from_secs(10)
    }
}

impl Module {
    /// How long this module must be healthy before its changeover counts as settled.
    pub fn settle(&self) -> Span {
        self.health.as_ref().map_or_else(Health::default_settle, |health| health.settle)
    }
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is longer than [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {0} bytes; at most {MAX_MANIFEST_BYTES} are read")]
    TooLong(usize),
    /// It is not the JSON of a manifest.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// It is JSON, but not in RFC 8785 form.
    #[error("the manifest is not in canonical form (RFC 8785), so its id would not be well defined")]
    NotCanonical,
    /// Its format is not known to this build.
    #[error("the manifest has format {0}; this build reads format {MANIFEST_FORMAT}")]
    Format(u32),
    /// It has no module.
    #[error("package {0} has no modules; a package has at least one [[module]]")]
    NoModules(PackageName),
    /// It has too many modules.
    #[error("package {0} has {1} modules; at most {MAX_MODULES} are allowed")]
    TooManyModules(PackageName, usize),
    /// Two modules cannot be told apart.
    #[error(
        "module {module} is there twice for {platform} with the same characteristics; modules of one name differ by platform or characteristics"
    )]
    DuplicateModule {
        /// The module.
        module: ModuleName,
        /// Its platform.
        platform: Platform,
    },
    /// A module depends on itself, perhaps by way of others.
    #[error("modules depend on each other in a cycle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A module depends on one of its own package that is not there.
    #[error("module {module} depends on {missing}, which package {package} does not have")]
    MissingModule {
        /// The module that depends.
        module: ModuleName,
        /// What is missing.
        missing: ModuleName,
        /// The package.
        package: PackageName,
    },
    /// A text is too long or has control characters.
    #[error("{what} has {problem}")]
    Text {
        /// Which field.
        what: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Manifest {
    /// Reads and checks a manifest from its canonical text. The text must be canonical, so that text and id are one to one.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong(text.len()));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        manifest.check()?;
        if manifest.canonical() != text {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical text (RFC 8785 JSON) that is hashed into the package's id.
    pub fn canonical(&self) -> String {
        // All keys are strings and all numbers are integers below 2^53 or checked sizes, so this cannot fail.
        serde_json_canonicalizer::to_string(self).unwrap_or_default()
    }

    /// The package's id.
    pub fn id(&self) -> PackageId {
        PackageId::of(&self.canonical())
    }

    /// Checks what the types alone cannot: see [`ManifestError`].
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.format != MANIFEST_FORMAT {
            return Err(ManifestError::Format(self.format));
        }
        if self.modules.is_empty() {
            return Err(ManifestError::NoModules(self.name.clone()));
        }
        if self.modules.len() > MAX_MODULES {
            return Err(ManifestError::TooManyModules(self.name.clone(), self.modules.len()));
        }
        check_text("package.summary", &self.summary)?;
        let mut seen = BTreeSet::new();
        for module in &self.modules {
            if !seen.insert((&module.name, &module.platform, &module.characteristics)) {
                return Err(ManifestError::DuplicateModule { module: module.name.clone(), platform: module.platform.clone() });
            }
            self.check_module(module)?;
        }
        self.check_cycles()
    }

    fn check_module(&self, module: &Module) -> Result<(), ManifestError> {
        // 2^53: beyond it a JSON number is not exact.
        if module.size > 1 << 53 {
            return Err(ManifestError::Text { what: format!("module {}: size", module.name), problem: "more than 2^53 bytes" });
        }
        for text in module.run.iter().chain(module.characteristics.values()) {
            check_text(&format!("module {}", module.name), text)?;
        }
        for dependency in &module.depends_on {
            if dependency.package.as_ref().is_none_or(|package| *package == self.name)
                && !self.modules.iter().any(|other| other.name == dependency.module)
            {
                return Err(ManifestError::MissingModule {
                    module: module.name.clone(),
                    missing: dependency.module.clone(),
                    package: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Dependencies within the package form no cycle.
    fn check_cycles(&self) -> Result<(), ManifestError> {
        let mut edges: BTreeMap<&ModuleName, BTreeSet<&ModuleName>> = BTreeMap::new();
        for module in &self.modules {
            let own = module.depends_on.iter().filter(|d| d.package.as_ref().is_none_or(|package| *package == self.name));
            edges.entry(&module.name).or_default().extend(own.map(|d| &d.module));
        }
        let mut done = BTreeSet::new();
        for start in edges.keys() {
            let mut path = Vec::new();
            visit(start, &edges, &mut done, &mut path)?;
        }
        Ok(())
    }
}

/// Depth-first search that remembers the path, so that a cycle is named whole.
fn visit<'a>(
    at: &'a ModuleName,
    edges: &BTreeMap<&'a ModuleName, BTreeSet<&'a ModuleName>>,
    done: &mut BTreeSet<&'a ModuleName>,
    path: &mut Vec<&'a ModuleName>,
) -> Result<(), ManifestError> {
    if done.contains(at) {
        return Ok(());
    }
    if let Some(begin) = path.iter().position(|other| *other == at) {
        let cycle = path[begin..].iter().chain([&at]).map(ToString::to_string).collect();
        return Err(ManifestError::Cycle(cycle));
    }
    path.push(at);
    for next in edges.get(at).into_iter().flatten() {
        visit(next, edges, done, path)?;
    }
    path.pop();
    done.insert(at);
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), ManifestError> {
    let problem = if text.len() > 4096 {
        "more than 4096 bytes"
    } else if text.chars().any(char::is_control) {
        "a control character"
    } else {
        return Ok(());
    };
    Err(ManifestError::Text { what: what.to_owned(), problem })
}
