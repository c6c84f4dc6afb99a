//! What manifests say in one text each: platforms, addresses, dependencies, APIs, hooks.
//!
//! One idea: such a text is read once, into a type whose `Display` writes it again; a wrong one says what would be right.

use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use super::ids::{ApiName, IdError, ModuleName, PackageName};

/// Has a type stored as the text that it is written as.
macro_rules! stored_as_text {
    ($($type:ident),+) => {
        $(
            impl TryFrom<String> for $type {
                type Error = IdError;
                fn try_from(text: String) -> Result<Self, IdError> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> String {
                    value.to_string()
                }
            }
        )+
    };
}

stored_as_text!(Platform, Listen, ModuleDependency, ApiProvided, ApiConsumed, AskHow);

/// An operating system and processor, or any.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Platform {
    /// Any platform.
    #[default]
    Any,
    /// One platform.
    Exactly {
        /// Such as `linux`.
        os: String,
        /// Such as `amd64` or `arm64`.
        arch: String,
    },
}

impl Platform {
    /// The platform of the machine this runs on.
    pub fn here() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform::Exactly { os: std::env::consts::OS.to_owned(), arch: arch.to_owned() }
    }

    /// Whether a module for this platform runs on a node of that one.
    pub fn suits(&self, node: &Platform) -> bool {
        *self == Platform::Any || self == node
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Platform::Any => f.pad("any"),
            Platform::Exactly { os, arch } => f.pad(&format!("{os}/{arch}")),
        }
    }
}

impl FromStr for Platform {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "any" {
            return Ok(Platform::Any);
        }
        let word = |part: &str| {
            (1..=16).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        match text.split_once('/') {
            Some((os, arch)) if word(os) && word(arch) => Ok(Platform::Exactly { os: os.into(), arch: arch.into() }),
            _ => Err(IdError {
                what: "platform",
                text: text.chars().take(80).collect(),
                rule: "use \"any\" or os/arch, such as linux/amd64",
            }),
        }
    }
}

/// A socket address a module listens on: `tcp://HOST:PORT`, `udp://HOST:PORT` or `unix:///PATH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(String);

impl Listen {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Listen {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let socket = |rest: &str| rest.parse::<std::net::SocketAddr>().is_ok();
        let good = match text.split_once("://") {
            Some(("tcp" | "udp", rest)) => socket(rest),
            Some(("unix", rest)) => rest.starts_with('/') && rest.len() <= 100 && !rest.contains('\0'),
            _ => false,
        };
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError {
                what: "listen address",
                text: text.chars().take(80).collect(),
                rule: "use tcp://IP:PORT, udp://IP:PORT or unix:///PATH (at most 100 bytes)",
            })
        }
    }
}

/// A module needed on the same node: `name` (same package) or `package/name@^1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleDependency {
    /// The package; `None`: the one that says so.
    pub package: Option<PackageName>,
    /// The module.
    pub module: ModuleName,
    /// The versions of its package that will do; `*` for all.
    pub version: VersionReq,
}

impl fmt::Display for ModuleDependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(package) = &self.package {
            write!(f, "{package}/")?;
        }
        write!(f, "{}", self.module)?;
        if self.version != VersionReq::STAR {
            write!(f, "@{}", self.version)?;
        }
        Ok(())
    }
}

impl FromStr for ModuleDependency {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            what: "dependency",
            text: text.chars().take(80).collect(),
            rule: "use \"module\" or \"package/module@VERSION\", such as \"rates\" or \"billing/rates@^1.2\"",
        };
        let (path, version) = text.split_once('@').map_or((text, None), |(path, version)| (path, Some(version)));
        let version = version.map_or(Ok(VersionReq::STAR), |v| v.parse().map_err(|_| wrong()))?;
        let (package, module) = path.split_once('/').map_or((None, path), |(package, module)| (Some(package), module));
        Ok(Self {
            package: package.map(str::parse).transpose().map_err(|_: IdError| wrong())?,
            module: module.parse().map_err(|_| wrong())?,
            version,
        })
    }
}

/// An API a module provides: `billing.api@2.3.0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiProvided {
    /// The API.
    pub api: ApiName,
    /// The version of it that is provided.
    pub version: Version,
}

impl fmt::Display for ApiProvided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.api, self.version)
    }
}

impl FromStr for ApiProvided {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            what: "provided API",
            text: text.chars().take(80).collect(),
            rule: "use NAME@VERSION, such as billing.api@2.3.0",
        };
        let (api, version) = text.split_once('@').ok_or_else(wrong)?;
        Ok(Self { api: api.parse().map_err(|_| wrong())?, version: version.parse().map_err(|_| wrong())? })
    }
}

/// Where the provider of a consumed API must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Somewhere in the cluster.
    Anywhere,
    /// On the same node: `on node`.
    Node,
    /// Every provider in the cluster must match: `every`.
    Every,
}

/// An API a module consumes: `ledger.api@^1.4`, `clock.api@1 on node`, `audit.api@2 every`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiConsumed {
    /// The API.
    pub api: ApiName,
    /// The versions that will do.
    pub version: VersionReq,
    /// Where its provider must be.
    pub reach: Reach,
}

impl fmt::Display for ApiConsumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reach = match self.reach {
            Reach::Anywhere => "",
            Reach::Node => " on node",
            Reach::Every => " every",
        };
        write!(f, "{}@{}{reach}", self.api, self.version)
    }
}

impl FromStr for ApiConsumed {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            what: "consumed API",
            text: text.chars().take(80).collect(),
            rule: "use NAME@VERSION, \"NAME@VERSION on node\" or \"NAME@VERSION every\", such as ledger.api@^1.4",
        };
        let (rest, reach) = if let Some(rest) = text.strip_suffix(" on node") {
            (rest, Reach::Node)
        } else if let Some(rest) = text.strip_suffix(" every") {
            (rest, Reach::Every)
        } else {
            (text, Reach::Anywhere)
        };
        let (api, version) = rest.split_once('@').ok_or_else(wrong)?;
        Ok(Self { api: api.parse().map_err(|_| wrong())?, version: version.parse().map_err(|_| wrong())?, reach })
    }
}

/// By what means a module's process is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AskHow {
    /// By the process socket if it said hello; else it accepts.
    #[default]
    Auto,
    /// By the process socket.
    Socket,
    /// By a command: `hook COMMAND…`.
    Hook(Vec<String>),
    /// It is not asked, unless it said hello.
    Never,
}

impl fmt::Display for AskHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskHow::Auto => f.write_str("auto"),
            AskHow::Socket => f.write_str("socket"),
            AskHow::Hook(command) => write!(f, "hook {}", command.join(" ")),
            AskHow::Never => f.write_str("never"),
        }
    }
}

impl FromStr for AskHow {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "auto" => Ok(AskHow::Auto),
            "socket" => Ok(AskHow::Socket),
            "never" => Ok(AskHow::Never),
            _ => match text.strip_prefix("hook ").map(|rest| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
                // No shell reads it: a quote would be part of a word, which nobody means.
                Some(_) if text.contains(['"', '\'', '\\']) => Err(IdError {
                    what: "ask.how",
                    text: text.chars().take(80).collect(),
                    rule: "no shell reads a hook command, so leave out quotes and backslashes; put a script into the package and name that",
                }),
                Some(command) if !command.is_empty() => Ok(AskHow::Hook(command)),
                _ => Err(IdError {
                    what: "ask.how",
                    text: text.chars().take(80).collect(),
                    rule: "use \"auto\", \"socket\", \"never\" or \"hook COMMAND\"",
                }),
            },
        }
    }
}
