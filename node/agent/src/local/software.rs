//! What a node's children run from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tribune_raft_store::model::UpdateId;

use super::generations;

/// What children run from: a generation of local storage, or what an ephemeral update put beside it. Written `7` or `u12/1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Software {
    /// A generation, which stays.
    Generation(u64),
    /// What an update put beside local storage until the node is restarted, and its number there.
    Ephemeral(UpdateId, u64),
}

impl Software {
    /// The folder that has its modules as `PACKAGE/MODULE`, where local storage and that of ephemeral updates are in these folders.
    pub(crate) fn tree(self, local: &Path, ephemeral: &Path) -> PathBuf {
        match self {
            Software::Generation(number) => generations::tree(local, number),
            Software::Ephemeral(update, number) => generations::tree(&ephemeral.join(update.to_string()), number),
        }
    }
}

impl fmt::Display for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Software::Generation(number) => write!(f, "{number}"),
            Software::Ephemeral(update, number) => write!(f, "{update}/{number}"),
        }
    }
}

/// A text that names no software of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it names neither a generation (7) nor what an ephemeral update put beside it (u12/1)")]
pub struct SoftwareError;

impl FromStr for Software {
    type Err = SoftwareError;

    fn from_str(text: &str) -> Result<Self, SoftwareError> {
        let number = |text: &str| text.parse().map_err(|_| SoftwareError);
        match text.split_once('/') {
            None => Ok(Software::Generation(number(text)?)),
            Some((update, rest)) => Ok(Software::Ephemeral(update.parse().map_err(|_| SoftwareError)?, number(rest)?)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_is_neither_is_refused() {
        for software in [Software::Generation(7), Software::Ephemeral(UpdateId(12), 1)] {
            assert_eq!(software.to_string().parse(), Ok(software));
        }
        for wrong in ["", "u12", "/1", "u12/", "7/1", "-1"] {
            assert_eq!(wrong.parse::<Software>(), Err(SoftwareError), "{wrong}");
        }
    }
}
