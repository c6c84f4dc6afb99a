//! The settings of one node, in `node.toml` of its data folder: made by `init` or `join`, changed by hand.
//!
//! What is set here is about this machine alone; what the cluster agrees on is in the record.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tribune_p2p::Multiaddr;
use tribune_raft_store::model::{NodeName, Platform, Role, Span, VoterPreference};

use crate::data::{DataFolder, replace_file};
use crate::error::{NodeError, file_error};

/// Where the control network listens unless set otherwise.
pub const DEFAULT_CONTROL: &str = "/ip4/0.0.0.0/tcp/7400";
/// Where the data network listens unless set otherwise.
pub const DEFAULT_DATA: &str = "/ip4/0.0.0.0/tcp/7401";
/// Free space of the disk that packages and modules leave to others, in MiB.
const DEFAULT_RESERVE_MIB: u64 = 256;

/// How long the package store keeps what no package needs any more.
const DEFAULT_FORGET_AFTER: Span = Span::from_secs(3600);
/// The shortest: longer than the master waits for an answer, so that nothing is forgotten between the count of its copies and the entry
/// that publishes it.
const LEAST_FORGET_AFTER: Span = Span::from_secs(900);

const HEADER: &str = "\
# The settings of this Tribune node. They are read when the node starts.
#
# name        the node's name; it cannot be changed here once the node is in the cluster
# platform    what it declares itself to be, such as \"linux/amd64\"
# control     where the control network listens; data: where packages and modules are sent and received
# advertise-control, advertise-data   addresses by which others reach it, where these differ from those it listens at
# voter       \"never\", \"may\" or \"prefer\": whether the node may be one of the cluster's voters
# local-commands   \"viewer\", \"operator\" or \"admin\": the most that commands given on this machine may do
# reserve-mib free space that packages and modules leave to others, in MiB
# process-group   a group, by name or number such as \"services\" or \"990\", whose members may open the process
#             socket; the data folder then lets them through to it, and to nothing else
# forget-after how long the package store keeps what no package needs any more, such as \"1h\"; at least \"15m\"
# [runners]   commands that run modules of other platforms, such as \"linux/arm64\" = \"qemu-aarch64-static\"

";

/// The settings of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The node's name.
    pub name: NodeName,
    /// The platform it declares.
    pub platform: Platform,
    /// Where the control network listens.
    pub control: Multiaddr,
    /// Where the data network listens.
    pub data: Multiaddr,
    /// Addresses of the control network for others, where they are not those it listens at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertise_control: Vec<Multiaddr>,
    /// Addresses of the data network for others, where they are not those it listens at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertise_data: Vec<Multiaddr>,
    /// Whether it may be a voter.
    #[serde(default)]
    pub voter: VoterPreference,
    /// The most that commands by the node's own socket may do; the record has a limit of its own.
    #[serde(default = "admin")]
    pub local_commands: Role,
    /// Free space that packages and modules leave to others, in MiB.
    #[serde(default = "reserve")]
    pub reserve_mib: u64,
    /// How long the package store keeps what no package needs any more.
    #[serde(default = "forget_after")]
    pub forget_after: Span,
    /// The group, by name or number, whose members may open the process socket beside root and the user this runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_group: Option<String>,
    /// Commands that run modules of other platforms.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runners: BTreeMap<String, String>,
}

fn admin() -> Role {
    Role::Admin
}

fn reserve() -> u64 {
    DEFAULT_RESERVE_MIB
}

fn forget_after() -> Span {
    DEFAULT_FORGET_AFTER
}

impl Settings {
    /// Settings with what is asked at `init` and `join`, and the defaults for the rest.
    pub fn new(name: NodeName, platform: Option<Platform>, control: Option<Multiaddr>, data: Option<Multiaddr>) -> Self {
        let default = |text: &str| text.parse().unwrap_or_else(|_| Multiaddr::empty());
        Self {
            name,
            platform: platform.unwrap_or_else(Platform::here),
            control: control.unwrap_or_else(|| default(DEFAULT_CONTROL)),
            data: data.unwrap_or_else(|| default(DEFAULT_DATA)),
            advertise_control: Vec::new(),
            advertise_data: Vec::new(),
            voter: VoterPreference::default(),
            local_commands: admin(),
            reserve_mib: reserve(),
            forget_after: forget_after(),
            process_group: None,
            runners: BTreeMap::new(),
        }
    }

    /// The settings in a data folder.
    ///
    /// # Errors
    /// The file is not there, or something in it is wrong: the error names the line.
    pub fn load(data: &DataFolder) -> Result<Self, NodeError> {
        let path = data.settings();
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NodeError::NoNode(data.root().to_owned())),
            Err(error) => Err(file_error("read", &path)(error)),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, NodeError> {
        let wrong = |why: String| NodeError::Setting { file: path.to_owned(), why };
        let settings: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        settings.runner_commands().map_err(wrong)?;
        if settings.process_group.as_deref().is_some_and(|group| !is_group(group)) {
            return Err(wrong(
                "process-group is no group: name one, or give its number, such as \"services\" or \"990\"".to_owned(),
            ));
        }
        if settings.forget_after < LEAST_FORGET_AFTER {
            let given = settings.forget_after;
            return Err(wrong(format!(
                "forget-after is {given}: use {LEAST_FORGET_AFTER} or more, such as {DEFAULT_FORGET_AFTER}"
            )));
        }
        Ok(settings)
    }

    /// Writes the settings into a data folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, data: &DataFolder) -> Result<(), NodeError> {
        let path = data.settings();
        let text = toml::to_string(self).map_err(|error| NodeError::Setting { file: path.clone(), why: error.to_string() })?;
        replace_file(&path, format!("{HEADER}{text}").as_bytes())
    }

    /// The free space that packages and modules leave to others, in bytes.
    pub fn reserve(&self) -> u64 {
        self.reserve_mib.saturating_mul(1024 * 1024)
    }

    /// The runners, each as a command of words.
    ///
    /// # Errors
    /// What is wrong with one of them, as a sentence.
    pub fn runner_commands(&self) -> Result<BTreeMap<Platform, Vec<String>>, String> {
        let mut commands = BTreeMap::new();
        for (platform, command) in &self.runners {
            let platform: Platform = platform.parse().map_err(|error| format!("[runners]: {error}"))?;
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                return Err(format!("[runners]: the command for {platform} is empty"));
            }
            commands.insert(platform, words);
        }
        Ok(commands)
    }
}

/// Whether this can be the name or number of a group. It becomes an argument of a command.
fn is_group(text: &str) -> bool {
    let other = |c: char| c.is_whitespace() || c.is_control() || c == ':';
    !text.is_empty() && !text.starts_with('-') && !text.contains(other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::make(folder.path()).unwrap();
        let mut settings = Settings::new("n1".parse().unwrap(), None, None, Some("/ip4/10.0.0.1/tcp/9".parse().unwrap()));
        settings.voter = VoterPreference::Never;
        settings.local_commands = Role::Operator;
        settings.process_group = Some("services".into());
        settings.runners.insert("linux/arm64".into(), "qemu-aarch64-static -L /usr".into());
        settings.save(&data).unwrap();
        assert_eq!(Settings::load(&data).unwrap(), settings);
        assert_eq!(settings.control.to_string(), DEFAULT_CONTROL);
        let runners = settings.runner_commands().unwrap();
        assert_eq!(runners[&"linux/arm64".parse().unwrap()], ["qemu-aarch64-static", "-L", "/usr"]);
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_would_be_right() {
        let good = "name = \"n1\"\nplatform = \"linux/amd64\"\ncontrol = \"/ip4/0.0.0.0/tcp/1\"\ndata = \"/ip4/0.0.0.0/tcp/2\"\n";
        let parse = |text: &str| Settings::parse(Path::new("/d/node.toml"), text);
        assert!(parse(good).is_ok());
        assert_eq!(parse(&format!("{good}forget-after = \"20m\"\n")).unwrap().forget_after, Span::from_secs(1200));
        for (added, expected) in [
            ("forget-after = \"899s\"", "use 15m or more"),
            ("colour = 1", "colour"),
            ("process-group = \"--help\"", "\"services\" or \"990\""),
            ("process-group = \"\"", "\"services\" or \"990\""),
            ("voter = \"perhaps\"", "perhaps"),
            ("[runners]\n\"linux\" = \"x\"", "os/arch"),
        ] {
            let error = parse(&format!("{good}{added}\n")).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("node.toml"), "{error}");
        }
    }
}
