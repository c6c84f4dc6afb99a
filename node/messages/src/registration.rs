//! A process that runs on a node and was not started by it: how it is found, what it needs, and how it is asked.
//!
//! One idea: it is known by its name, and which process that is now is looked up anew whenever it matters. So it may be
//! restarted by whoever owns it, and its registration stays.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{ApiConsumed, ModuleDependency, ProcessName, Silent, Span};

/// How many processes can be registered with a node.
pub const MAX_REGISTERED: usize = 256;
/// How many things a registered process may depend on and consume.
pub const MAX_NEEDS: usize = 256;
/// The longest time that a registered process may have to answer.
pub const LONGEST_ANSWER: Span = Span::from_secs(600);
/// The longest path, unit name or word of a hook, in bytes.
const LONGEST_TEXT: usize = 4096;
/// The longest name that systemd gives a unit, in bytes.
const LONGEST_UNIT: usize = 255;
/// The most words of a hook.
const MOST_WORDS: usize = 256;

/// A process that was registered with its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Registration {
    /// What operators call it.
    pub name: ProcessName,
    /// How the node finds its process.
    pub found_by: FoundBy,
    /// The command that answers for it while it does not speak on the process socket: a program and its arguments.
    #[serde(default)]
    pub hook: Option<Vec<String>>,
    /// The modules of this node that it depends on, each with its package.
    #[serde(default)]
    pub depends_on: Vec<ModuleDependency>,
    /// The APIs of this node's modules that it consumes.
    #[serde(default)]
    pub consumes: Vec<ApiConsumed>,
    /// What its silence means.
    #[serde(default)]
    pub silent: Silent,
    /// How long it has to answer.
    pub within: Span,
    /// How long it may take to its safe point, if it speaks on the process socket.
    pub ready_within: Span,
}

/// How the node finds a registered process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// This file holds its pid.
    PidFile(PathBuf),
    /// It is the main process of this unit of systemd's.
    Unit(String),
}

impl std::fmt::Display for FoundBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FoundBy::PidFile(path) => write!(f, "pid file {}", path.display()),
            FoundBy::Unit(unit) => write!(f, "unit {unit}"),
        }
    }
}

/// What is wrong with a registration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// It needs nothing, so no update would ever touch it.
    #[error("process {0} would never be asked: say what it depends on or consumes")]
    NeedsNothing(ProcessName),
    /// It needs too much.
    #[error("process {0} needs {1} modules and APIs; at most {MAX_NEEDS} can be named")]
    NeedsTooMuch(ProcessName, usize),
    /// A module is named without its package.
    #[error("{0}: a registered process belongs to no package, so name the package too, as \"package/module\"")]
    NoPackage(ModuleDependency),
    /// The pid file's path could mean several files.
    #[error("the pid file {path:?} is not named by an absolute path of at most {LONGEST_TEXT} bytes")]
    PidFile {
        /// The path.
        path: PathBuf,
    },
    /// No unit can be called so.
    #[error("{0:?} is not the name of a unit; use one such as \"nginx.service\"")]
    Unit(String),
    /// No command can look like this.
    #[error(
        "the hook is not a command: it needs an absolute path of a program, and at most {MOST_WORDS} words of at most {LONGEST_TEXT} bytes"
    )]
    Hook,
    /// A time is out of its bounds.
    #[error("{what} is {span}; it may be from 1ms to {LONGEST_ANSWER}")]
    Time {
        /// Which.
        what: &'static str,
        /// How long it is.
        span: Span,
    },
}

impl Registration {
    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// [`RegistrationError`] says what would be right.
    pub fn check(&self) -> Result<(), RegistrationError> {
        let Self { name, found_by, hook, depends_on, consumes, silent: _, within, ready_within } = self;
        let needs = depends_on.len() + consumes.len();
        if needs == 0 {
            return Err(RegistrationError::NeedsNothing(name.clone()));
        }
        if needs > MAX_NEEDS {
            return Err(RegistrationError::NeedsTooMuch(name.clone(), needs));
        }
        if let Some(without) = depends_on.iter().find(|dependency| dependency.package.is_none()) {
            return Err(RegistrationError::NoPackage(without.clone()));
        }
        match found_by {
            FoundBy::PidFile(path) if !path.is_absolute() || path.as_os_str().len() > LONGEST_TEXT => {
                return Err(RegistrationError::PidFile { path: path.clone() });
            }
            FoundBy::Unit(unit) if !is_unit(unit) => return Err(RegistrationError::Unit(unit.chars().take(80).collect())),
            FoundBy::PidFile(_) | FoundBy::Unit(_) => {}
        }
        if hook.as_ref().is_some_and(|words| !is_command(words)) {
            return Err(RegistrationError::Hook);
        }
        let times = [("the time to answer", *within), ("the time to be ready", *ready_within)];
        match times.into_iter().find(|(_, span)| span.as_millis() == 0 || *span > LONGEST_ANSWER) {
            Some((what, span)) => Err(RegistrationError::Time { what, span }),
            None => Ok(()),
        }
    }
}

/// Whether systemd could call a unit so: it goes to `systemctl` as an argument, so it must not look like an option.
fn is_unit(unit: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    (1..=LONGEST_UNIT).contains(&unit.len()) && !unit.starts_with('-') && unit.contains('.') && unit.bytes().all(letter)
}

fn is_command(words: &[String]) -> bool {
    let program = words.first().is_some_and(|program| program.starts_with('/'));
    program && words.len() <= MOST_WORDS && words.iter().all(|word| word.len() <= LONGEST_TEXT && !word.contains('\0'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn clock() -> Registration {
        Registration {
            name: ProcessName::new("clock").unwrap(),
            found_by: FoundBy::PidFile("/run/clock.pid".into()),
            hook: Some(vec!["/usr/bin/ask".into(), "clock".into()]),
            depends_on: vec!["billing/billingd@^2".parse().unwrap()],
            consumes: vec![],
            silent: Silent::Veto,
            within: Span::from_secs(5),
            ready_within: Span::from_secs(10),
        }
    }

    #[test]
    fn a_registration_that_could_do_nothing_or_mean_two_things_is_refused_with_what_would_be_right() {
        clock().check().unwrap();
        let wrong = |change: &dyn Fn(&mut Registration)| {
            let mut registration = clock();
            change(&mut registration);
            registration.check().unwrap_err().to_string()
        };
        assert!(wrong(&|it| it.depends_on.clear()).contains("say what it depends on"));
        assert!(wrong(&|it| it.depends_on = vec!["billingd".parse().unwrap()]).contains("package/module"));
        assert!(wrong(&|it| it.found_by = FoundBy::PidFile("run/clock.pid".into())).contains("absolute"));
        for unit in ["", "nginx", "-M.service", "a b.service", "../x.service"] {
            assert!(wrong(&|it| it.found_by = FoundBy::Unit(unit.into())).contains("nginx.service"), "{unit}");
        }
        assert!(wrong(&|it| it.hook = Some(vec![])).contains("absolute path of a program"));
        assert!(wrong(&|it| it.hook = Some(vec!["ask".into()])).contains("absolute path of a program"));
        assert!(wrong(&|it| it.within = Span::from_secs(0)).contains("time to answer is"));
        assert!(wrong(&|it| it.ready_within = Span::from_secs(601)).contains("10m"));
        assert!(wrong(&|it| it.consumes = vec!["a.api@1".parse().unwrap(); MAX_NEEDS]).contains("at most 256"));
    }
}
