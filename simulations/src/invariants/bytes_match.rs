//! Only bytes that match their signature are run (claims 2 and 19).

use std::collections::BTreeMap;

use tribune_agent::launch::ChildLabel;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct BytesMatch {
    looked: BTreeMap<String, usize>,
}

impl Invariant for BytesMatch {
    fn name(&self) -> &'static str {
        "bytes-match"
    }

    fn sentence(&self) -> &'static str {
        "What is run has the bytes that its signature names."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let inner = node.machine.lock();
            let looked = self.looked.entry(node.name.clone()).or_default();
            for started in &inner.started[*looked..] {
                let label: ChildLabel = started.label.parse().map_err(|error| format!("{}: {error}", node.name))?;
                let Some(bytes) = started.bytes else { continue };
                if bytes.as_bytes() != label.signature.as_bytes() {
                    return Err(format!("{} ran other bytes as {} at {:?}", node.name, started.child, started.at));
                }
            }
            *looked = inner.started.len();
        }
        Ok(())
    }
}
