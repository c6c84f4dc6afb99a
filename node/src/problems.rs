//! What keeps a node from its work, for those who ask for its status.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The problems of the parts of a node. Clones are the same list; each part has its own line in it.
#[derive(Debug, Clone)]
pub(crate) struct Problems {
    lines: Arc<watch::Sender<BTreeMap<&'static str, String>>>,
}

impl Problems {
    /// No problems.
    pub(crate) fn none() -> Self {
        Self { lines: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// This part has a problem: one sentence. It is logged when it is new.
    pub(crate) fn set(&self, part: &'static str, why: impl Into<String>) {
        let why = why.into();
        self.lines.send_if_modified(|lines| {
            let new = lines.get(part) != Some(&why);
            if new {
                tracing::error!(part, %why, "a part of this node does not work");
                lines.insert(part, why);
            }
            new
        });
    }

    /// This part works.
    pub(crate) fn clear(&self, part: &'static str) {
        self.lines.send_if_modified(|lines| lines.remove(part).is_some());
    }

    /// All problems, one sentence each.
    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.borrow().iter().map(|(part, why)| format!("{part}: {why}")).collect()
    }
}
