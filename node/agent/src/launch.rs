//! From a module to the child process that runs it: pure.
//!
//! Its one idea: everything a child is given is written in its package's manifest or is the same for all children, so
//! that the same module is started in the same way by any agent on any node. In particular it inherits nothing from the
//! environment of the node.
//!
//! A child runs in the folder of its package in its generation's tree, and sees:
//!
//! | variable | what it is |
//! | --- | --- |
//! | `PATH` | its package's folder, those of the packages it depends on, then `/usr/local/bin:/usr/bin:/bin` |
//! | `TRIBUNE_SOCKET` | the node's process socket |
//! | `TRIBUNE_NODE` | the node's name |
//! | `TRIBUNE_MODULE` | its own `package/module` |
//! | `TRIBUNE_VERSION` | its package's version when it was started |
//! | `TRIBUNE_TREE` | its generation's tree, with every module as `PACKAGE/MODULE`: always what it was started with |
//! | `TRIBUNE_LIVE` | the tree of the generation that runs now: for one that is told to read its inputs again |
//! | `HOME`, `LANG` | the node's folder for it, `C.UTF-8` |
//! | `LISTEN_FDS` … | its sockets, from descriptor 3 on in the manifest's order, named `listen0`, `listen1` … |

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use semver::Version;
use tribune_keeper::{AddressError, ChildId, ChildSpec, FileSpec, SocketAddress, SocketSpec, SpecError, StopSpec};
use tribune_process::protocol::SOCKET_VARIABLE;
use tribune_raft_store::model::{ModuleKind, NodeName, PackageName, Platform, Signature};

use crate::affected::packages_needed;
use crate::local::{Installed, InstalledModule, Software, live_in};

/// Where every child finds the system's programs, after those of its tree.
const SYSTEM_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// The longest time that the keeper lets a child take to stop, in milliseconds.
const LONGEST_STOP_MS: u64 = 3_600_000;

/// Where things are on this node; all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// Local storage.
    pub local: PathBuf,
    /// What ephemeral updates put beside it.
    pub ephemeral: PathBuf,
    /// Where each module's output goes, as `PACKAGE.MODULE.log`.
    pub logs: PathBuf,
    /// The process socket.
    pub process_socket: PathBuf,
    /// What children have as `HOME`.
    pub home: PathBuf,
}

impl Folders {
    /// Where what children run from has its modules, as `PACKAGE/MODULE`.
    pub fn tree(&self, software: Software) -> PathBuf {
        software.tree(&self.local, &self.ephemeral)
    }
}

/// What is to be started, and on what node.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The generation that the module is started from.
    pub installed: &'a Installed,
    /// The module, as `package/module`.
    pub key: &'a str,
    /// Tells this child from others of the same module, before and after it.
    pub instance: u64,
    /// Where things are.
    pub folders: &'a Folders,
    /// What the machine really is, whatever the node declares.
    pub machine: &'a Platform,
    /// By the platform of modules that the machine cannot run by itself: the words of the command that runs them.
    pub runners: &'a BTreeMap<Platform, Vec<String>>,
    /// The node's name.
    pub node: &'a NodeName,
}

/// Why a module cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// It is not installed.
    #[error("module {key} is not in what runs on this node ({software})")]
    NotInstalled {
        /// The module.
        key: String,
        /// What it should have been started from.
        software: Software,
    },
    /// A path of the node's is not UTF-8, or has a `:`, and so cannot be in an argument or in `PATH`.
    #[error("{} cannot be told to a program; move the node's data to a path that is UTF-8 and has no ':'", .0.display())]
    Path(PathBuf),
    /// A command without words.
    #[error("module {0} has an empty command")]
    NoCommand(String),
    /// A listen address that the keeper does not know.
    #[error("module {key}: {source}")]
    Address {
        /// The module.
        key: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// The manifest asks for more than the keeper allows.
    #[error(transparent)]
    Limits(#[from] SpecError),
}

/// A program as it is run: a module's own, its hook or its health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// A path, or a name that is looked for in the `PATH` of `env`.
    pub program: String,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Its working folder.
    pub folder: PathBuf,
}

/// What a child's label says: what runs, whichever agent reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildLabel {
    /// The module's signature.
    pub signature: Signature,
    /// What it was started from, whose tree it needs as long as it runs.
    pub software: Software,
    /// Its package's version.
    pub version: Version,
}

impl fmt::Display for ChildLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.signature, self.software, self.version)
    }
}

/// A label that this agent did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the label of a module's child")]
pub struct LabelError(String);

impl FromStr for ChildLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let mut words = text.split(' ');
        let mut parse = || {
            let label = Self {
                signature: words.next()?.parse().ok()?,
                software: words.next()?.parse().ok()?,
                version: words.next()?.parse().ok()?,
            };
            words.next().is_none().then_some(label)
        };
        parse().ok_or_else(|| LabelError(text.chars().take(80).collect()))
    }
}

/// The child that runs a module; `None` for a module that does not run.
///
/// # Errors
/// The module is not installed, or asks for what cannot be given.
pub fn child_spec(launch: &Launch<'_>) -> Result<Option<ChildSpec>, LaunchError> {
    let found = launch.module()?;
    let module = found.module;
    if module.run.is_empty() {
        return Ok(None);
    }
    let Command { program, args, env, folder } = command(launch, &module.run)?;
    let name = &found.package.manifest.name;
    let log = launch.folders.logs.join(format!("{name}.{}.log", module.name));
    let label = ChildLabel {
        signature: module.signature,
        software: launch.installed.software(),
        version: found.package.manifest.version.clone(),
    };
    let within_ms = module.changeover.drain_within.as_millis().min(LONGEST_STOP_MS);
    let stop = StopSpec { within_ms, ..StopSpec::default() };
    // A folder was checked when it was unpacked.
    let file = (module.kind == ModuleKind::File).then(|| FileSpec {
        path: launch.folders.tree(launch.installed.software()).join(name.as_str()).join(module.name.as_str()),
        blake3: module.signature.to_string(),
    });
    let mut spec = ChildSpec {
        file,
        label: label.to_string(),
        args,
        env,
        stop,
        ..ChildSpec::new(ChildId::new(launch.key, launch.instance), program, folder, log)
    };
    for (place, listen) in module.listen.iter().enumerate() {
        let address: SocketAddress =
            listen.as_str().parse().map_err(|source| LaunchError::Address { key: launch.key.to_owned(), source })?;
        spec.sockets.push(SocketSpec { name: format!("listen{place}"), address });
    }
    spec.check()?;
    Ok(Some(spec))
}

/// A command of a module (what it runs as, its hook, its health check) as it is run: a first word that names a module is
/// that module, through its platform's runner if the machine needs one.
///
/// # Errors
/// The module is not installed, or the command is empty.
pub fn command(launch: &Launch<'_>, words: &[String]) -> Result<Command, LaunchError> {
    let found = launch.module()?;
    let tree = launch.folders.tree(launch.installed.software());
    let folder = tree.join(found.package.manifest.name.as_str());
    let [first, rest @ ..] = words else { return Err(LaunchError::NoCommand(launch.key.to_owned())) };
    let (program, args) = match named_module(launch.installed, &found, first) {
        Some((module, path)) => {
            let program = text(&tree.join(path))?;
            match runner(launch, &module.module.platform) {
                Some((runner, words)) => {
                    (runner.clone(), words.iter().cloned().chain([program]).chain(rest.iter().cloned()).collect())
                }
                None => (program, rest.to_vec()),
            }
        }
        None => (first.clone(), rest.to_vec()),
    };
    Ok(Command { program, args, env: environment(launch, &found, &tree)?, folder })
}

impl Launch<'_> {
    fn module(&self) -> Result<InstalledModule<'_>, LaunchError> {
        let missing = || LaunchError::NotInstalled { key: self.key.to_owned(), software: self.installed.software() };
        self.installed.module(self.key).ok_or_else(missing)
    }
}

/// The module that a command's first word names, and the path it means in the tree: `MODULE` of the same package,
/// `PACKAGE/MODULE`, or a file in one of these where it is a folder.
fn named_module<'a>(installed: &'a Installed, own: &InstalledModule<'_>, word: &str) -> Option<(InstalledModule<'a>, String)> {
    let own_path = format!("{}/{word}", own.package.manifest.name);
    [own_path.as_str(), word].into_iter().find_map(|path| {
        let mut parts = path.splitn(3, '/');
        let key = format!("{}/{}", parts.next()?, parts.next()?);
        let module = installed.module(&key)?;
        let fits = match (module.module.kind, parts.next()) {
            (ModuleKind::File, inside) => inside.is_none(),
            (ModuleKind::Folder, inside) => inside.is_some_and(|inside| !inside.split('/').any(|part| part == "..")),
        };
        fits.then(|| (module, path.to_owned()))
    })
}

/// The runner's program and arguments for modules of this platform, where the machine needs one.
fn runner<'a>(launch: &Launch<'a>, platform: &Platform) -> Option<(&'a String, &'a [String])> {
    if platform.suits(launch.machine) {
        return None;
    }
    // Without a runner the system is left to try: it may know the format (binfmt_misc), or the module be a script.
    launch.runners.get(platform)?.split_first()
}

fn environment(launch: &Launch<'_>, found: &InstalledModule<'_>, tree: &Path) -> Result<BTreeMap<String, String>, LaunchError> {
    let Folders { local, ephemeral: _, logs: _, process_socket, home } = launch.folders;
    let own = &found.package.manifest.name;
    let here = |package: &&PackageName| launch.installed.package_named(package).is_some();
    let mut path = Vec::new();
    for package in [own].into_iter().chain(packages_needed(found)).filter(here) {
        let folder = tree.join(package.as_str());
        let part = text(&folder)?;
        if part.contains(':') {
            return Err(LaunchError::Path(folder));
        }
        path.push(part);
    }
    path.extend(SYSTEM_PATH.map(str::to_owned));
    let variables = [
        ("PATH", path.join(":")),
        ("HOME", text(home)?),
        ("LANG", "C.UTF-8".to_owned()),
        (SOCKET_VARIABLE, text(process_socket)?),
        ("TRIBUNE_NODE", launch.node.to_string()),
        ("TRIBUNE_MODULE", launch.key.to_owned()),
        ("TRIBUNE_VERSION", found.package.manifest.version.to_string()),
        ("TRIBUNE_TREE", text(tree)?),
        ("TRIBUNE_LIVE", text(&live_in(local))?),
    ];
    Ok(variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A path as the text that a program is given.
fn text(path: &Path) -> Result<String, LaunchError> {
    path.to_str().map(str::to_owned).ok_or_else(|| LaunchError::Path(path.to_owned()))
}

#[cfg(test)]
mod tests;
