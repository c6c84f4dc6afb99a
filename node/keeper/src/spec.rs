//! What the agent wants of one child, as plain data, and the limits it is checked against before anything is done.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::restart::{MOST_ENDINGS, RestartPolicy};
use crate::sockets::SocketAddress;

/// Most sockets that one child is given.
pub const MOST_CHILD_SOCKETS: usize = 32;
/// Longest key of a child, in bytes.
const LONGEST_KEY: usize = 200;
/// Longest label of a child, in bytes.
const LONGEST_LABEL: usize = 1024;
/// Smallest and largest log file, in bytes.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 30;
/// Longest deadline of a stop, in milliseconds.
pub(crate) const LONGEST_STOP_MS: u64 = 3_600_000;

/// Names one child. Two instances of one key may run side by side: the old and the new one during a changeover.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildId {
    /// What it is, such as `billing/billingd`: 1 to 200 of `A-Z a-z 0-9 . _ @ + / -`.
    pub key: String,
    /// Which one of those.
    pub instance: u64,
}

impl ChildId {
    /// The child of this key and instance.
    pub fn new(key: impl Into<String>, instance: u64) -> Self {
        Self { key: key.into(), instance }
    }

    /// A name that is a legal file name and belongs to no other child.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.key.replace('/', "%"), self.instance)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.key, self.instance)
    }
}

/// A signal that may be sent to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "each is the signal of that name, see signal(7)")]
pub enum SignalName {
    SigTerm,
    SigInt,
    SigHup,
    SigQuit,
    SigUsr1,
    SigUsr2,
    SigWinch,
    SigCont,
    SigKill,
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::SigTerm => Self::TERM,
            SignalName::SigInt => Self::INT,
            SignalName::SigHup => Self::HUP,
            SignalName::SigQuit => Self::QUIT,
            SignalName::SigUsr1 => Self::USR1,
            SignalName::SigUsr2 => Self::USR2,
            SignalName::SigWinch => Self::WINCH,
            SignalName::SigCont => Self::CONT,
            SignalName::SigKill => Self::KILL,
        }
    }
}

/// A listening socket that a child is given, by the name that it sees in `LISTEN_FDNAMES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketSpec {
    /// The name: 1 to 64 printable ASCII characters without `:`.
    pub name: String,
    /// Where it listens; the same address is the same socket for every child.
    pub address: SocketAddress,
}

/// Where a child's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// The file, absolute; its folder is made. Children may share one.
    pub path: PathBuf,
    /// A file that would grow beyond this many bytes is renamed to `PATH.1`, and a new one begun.
    pub most_bytes: u64,
}

/// How a child is stopped: a signal to its process group, and SIGKILL for what is left of it after a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopSpec {
    /// The signal that asks it to stop.
    pub signal: SignalName,
    /// How long it may take, in milliseconds.
    pub within_ms: u64,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: SignalName::SigTerm, within_ms: 10_000 }
    }
}

/// A file whose bytes are looked at each time before they are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Where it lies, absolute.
    pub path: PathBuf,
    /// The BLAKE3 of its bytes, in 64 hexadecimal digits.
    pub blake3: String,
}

impl FileSpec {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there, or has other bytes: as a sentence.
    pub fn verify(&self) -> Result<(), String> {
        let Self { path, blake3 } = self;
        let mut hasher = blake3::Hasher::new();
        let read = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
        read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let found = hasher.finalize().to_hex();
        if found.as_str() == blake3 {
            return Ok(());
        }
        let short = |hex: &str| hex.chars().take(8).collect::<String>();
        let (found, should) = (short(&found), short(blake3));
        Err(format!("{} has changed on disk: its bytes have signature {found} and not {should}; it is not run", path.display()))
    }
}

/// One child as the agent wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildSpec {
    /// Its name.
    pub id: ChildId,
    /// What the agent wants to read back in the child's status, such as its module's signature; at most 1 KiB.
    #[serde(default)]
    pub label: String,
    /// The program: a path, relative to `folder`, or a name without `/` that is looked for in the `PATH` of `env`.
    pub program: String,
    /// Its arguments, without the program's own name.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment, to which the keeper adds only `LISTEN_*`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its working folder, absolute.
    pub folder: PathBuf,
    /// Where its output goes.
    pub log: LogSpec,
    /// How it is stopped.
    #[serde(default)]
    pub stop: StopSpec,
    /// When it starts again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// The file that it is. It is not run with other bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSpec>,
    /// Its listening sockets, in the order in which it finds them from descriptor 3 on.
    #[serde(default)]
    pub sockets: Vec<SocketSpec>,
}

/// Why a spec is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("child {child}: {field} {problem}")]
pub struct SpecError {
    child: String,
    field: &'static str,
    problem: String,
}

impl ChildSpec {
    /// A child without arguments, environment and sockets, with the default limits and a log of 10 MiB.
    pub fn new(id: ChildId, program: impl Into<String>, folder: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            id,
            label: String::new(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            folder: folder.into(),
            log: LogSpec { path: log.into(), most_bytes: 10 << 20 },
            stop: StopSpec::default(),
            restart: RestartPolicy::default(),
            file: None,
            sockets: Vec::new(),
        }
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first field that breaks one, and what would be right.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_id()?;
        self.check_command()?;
        if !self.log.path.is_absolute() || self.log.path.file_name().is_none() {
            return self.wrong("log.path", format!("is {:?}; use the absolute path of a file", self.log.path));
        }
        if !LOG_BYTES.contains(&self.log.most_bytes) {
            let (least, most) = (LOG_BYTES.start(), LOG_BYTES.end());
            return self.wrong("log.most_bytes", format!("is {}; use {least} to {most}", self.log.most_bytes));
        }
        if self.stop.within_ms > LONGEST_STOP_MS {
            return self.wrong("stop.within_ms", format!("is {}; use at most {LONGEST_STOP_MS}", self.stop.within_ms));
        }
        if self.restart.loop_exits as usize > MOST_ENDINGS {
            return self.wrong("restart.loop_exits", format!("is {}; use at most {MOST_ENDINGS}", self.restart.loop_exits));
        }
        if let Some(FileSpec { path, blake3 }) = &self.file {
            if !path.is_absolute() {
                return self.wrong("file.path", format!("is {path:?}; use an absolute path"));
            }
            if blake3.len() != 64 || !blake3.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                return self.wrong("file.blake3", "is no BLAKE3; give its 64 hexadecimal digits".into());
            }
        }
        self.check_sockets()
    }

    fn check_id(&self) -> Result<(), SpecError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._@+/-".contains(c);
        if self.id.key.is_empty() || self.id.key.len() > LONGEST_KEY || !self.id.key.chars().all(legal) {
            return self.wrong("key", format!("should be 1 to {LONGEST_KEY} of A-Z a-z 0-9 . _ @ + / -"));
        }
        if self.label.len() > LONGEST_LABEL {
            return self.wrong("label", format!("has {} bytes; use at most {LONGEST_LABEL}", self.label.len()));
        }
        Ok(())
    }

    fn check_command(&self) -> Result<(), SpecError> {
        if self.program.is_empty() {
            return self.wrong("program", "is empty; name a file or a program in PATH".into());
        }
        if self.program.contains('\0') || self.args.iter().any(|arg| arg.contains('\0')) {
            return self.wrong("program or args", "hold a NUL, which no argument can".into());
        }
        let bad_name = |name: &str| name.is_empty() || name.contains(['=', '\0']);
        if let Some((name, _)) = self.env.iter().find(|(name, value)| bad_name(name) || value.contains('\0')) {
            return self.wrong("env", format!("holds {name:?}; a name has no '=' and neither it nor its value a NUL"));
        }
        if !self.folder.is_absolute() {
            return self.wrong("folder", format!("is {:?}; use an absolute path", self.folder));
        }
        Ok(())
    }

    fn check_sockets(&self) -> Result<(), SpecError> {
        if self.sockets.len() > MOST_CHILD_SOCKETS {
            return self.wrong("sockets", format!("are {}; use at most {MOST_CHILD_SOCKETS}", self.sockets.len()));
        }
        let legal = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        match self.sockets.iter().find(|socket| !legal(&socket.name)) {
            Some(socket) => self.wrong(
                "sockets.name",
                format!("is {:?}; use 1 to 64 printable characters without ':'", shortened(&socket.name, 80)),
            ),
            None => Ok(()),
        }
    }

    fn wrong(&self, field: &'static str, problem: String) -> Result<(), SpecError> {
        Err(SpecError { child: shortened(&self.id.to_string(), 80), field, problem: shortened(&problem, 400) })
    }
}

/// The text, cut to so many characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Where a full log file goes: the same path with `.1` after it.
pub fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn good() -> ChildSpec {
        ChildSpec::new(ChildId::new("billing/billingd", 7), "/bin/true", "/", "/var/log/billingd")
    }

    #[test]
    fn a_plain_spec_is_good_and_survives_json() {
        let spec = good();
        assert_eq!(spec.check(), Ok(()));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ChildSpec>(&text).unwrap(), spec);
        assert!(text.contains("\"SIGTERM\""), "{text}");
    }

    #[test]
    fn what_breaks_a_limit_is_named() {
        type Break = fn(&mut ChildSpec);
        let cases: &[(&str, Break)] = &[
            ("key", |s| s.id.key = "../../etc passwd".into()),
            ("key", |s| s.id.key.clear()),
            ("key", |s| s.id.key = "x".repeat(201)),
            ("label", |s| s.label = "x".repeat(1025)),
            ("program", |s| s.program.clear()),
            ("program or args", |s| s.args.push("a\0b".into())),
            ("env", |s| drop(s.env.insert("A=B".into(), String::new()))),
            ("folder", |s| s.folder = "relative".into()),
            ("log.path", |s| s.log.path = "relative".into()),
            ("log.most_bytes", |s| s.log.most_bytes = 1),
            ("stop.within_ms", |s| s.stop.within_ms = u64::MAX),
            ("restart.loop_exits", |s| s.restart.loop_exits = 101),
            ("file.path", |s| s.file = Some(FileSpec { path: "relative".into(), blake3: "0".repeat(64) })),
            ("file.blake3", |s| s.file = Some(FileSpec { path: "/x".into(), blake3: "0".repeat(63) })),
            ("sockets.name", |s| {
                s.sockets.push(SocketSpec { name: "a:b".into(), address: "tcp://127.0.0.1:1".parse().unwrap() })
            }),
            ("sockets", |s| {
                s.sockets = vec![SocketSpec { name: "a".into(), address: "tcp://127.0.0.1:1".parse().unwrap() }; 33];
            }),
        ];
        for (field, change) in cases {
            let mut spec = good();
            change(&mut spec);
            let error = spec.check().unwrap_err();
            assert_eq!(error.field, *field, "{error}");
        }
    }

    #[test]
    fn a_file_with_other_bytes_is_told_from_the_one_that_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "right").unwrap();
        let file = FileSpec { path: path.clone(), blake3: blake3::hash(b"right").to_string() };
        assert_eq!(file.verify(), Ok(()));
        std::fs::write(&path, "wrong").unwrap();
        assert!(file.verify().unwrap_err().contains("has changed on disk"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.verify().unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_child_s_file_name_stays_in_its_folder() {
        assert_eq!(ChildId::new("a/../b", 3).file_name(), "a%..%b.3");
    }
}
