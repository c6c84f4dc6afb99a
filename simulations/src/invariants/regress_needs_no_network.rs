//! Regress needs no network (claim 11; DESIGN, section 5: it uses local storage alone).

use std::collections::BTreeMap;
use std::sync::Arc;

use tribune_agent::agent::Standing;

use super::Invariant;
use crate::seen::{Seen, SeenNode};

#[derive(Debug, Default)]
pub struct RegressNeedsNoNetwork {
    looked: BTreeMap<String, Arc<Standing>>,
}

impl Invariant for RegressNeedsNoNetwork {
    fn name(&self) -> &'static str {
        "regress-needs-no-network"
    }

    fn sentence(&self) -> &'static str {
        "Every module of every generation that a node says it can go back to is on its disk."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            // What its agent said on a disk that has just been lost is said no more.
            let lost = node.machine.lock().disk_number != node.disk_number;
            let Some(standing) = node.standing.as_ref().filter(|_| !lost) else { continue };
            if self.looked.get(&node.name).is_some_and(|looked| Arc::ptr_eq(looked, standing)) {
                continue;
            }
            look(node, standing)?;
            self.looked.insert(node.name.clone(), standing.clone());
        }
        Ok(())
    }
}

fn look(node: &SeenNode, standing: &Standing) -> Result<(), String> {
    for (number, generation) in standing.kept.iter().chain([(&standing.current.number, &standing.current)]) {
        for (key, signature) in &generation.modules {
            let hex = signature.to_string();
            let path = node.machine.folder.join("local/modules").join(&hex[..2]).join(&hex);
            // What a fault has damaged is moved away when that is found.
            let damaged = node.machine.lock().damaged.contains_key(&path);
            if !damaged && !path.exists() {
                return Err(format!(
                    "{} can go back to generation {number}, and its module {key} ({}) is not there",
                    node.name,
                    signature.short()
                ));
            }
        }
    }
    Ok(())
}
