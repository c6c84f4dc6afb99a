//! What is staged has been verified, also when the user forces the update (claim 19: nobody overrules a signature).

use std::collections::BTreeMap;
use std::time::Duration;

use tribune_raft_store::model::{Phase, Step, UpdateId};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct StagedIsSound {
    /// When nodes began to fetch and to stage.
    began: BTreeMap<UpdateId, Duration>,
}

impl Invariant for StagedIsSound {
    fn name(&self) -> &'static str {
        "staged-is-sound"
    }

    fn sentence(&self) -> &'static str {
        "A node that says it has staged has the bytes of every module that it will run."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        // What is ephemeral is staged beside local storage.
        for (id, update) in seen.updates().into_iter().filter(|(_, update)| !update.request.options.ephemeral) {
            if !matches!(update.phase, Phase::Distributing | Phase::Wave { .. }) {
                self.began.remove(&id);
                continue;
            }
            let began = *self.began.entry(id).or_insert(seen.at);
            for (name, progress) in &update.nodes {
                let was = seen.was(id).and_then(|was| was.nodes.get(name)).map(|was| was.step);
                let newly = progress.step == Step::Staged && was.is_none_or(|was| was < Step::Staged);
                let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(name)).filter(|_| newly);
                let Some(node) = seen.nodes.iter().find(|node| node.name == name.as_str()) else { continue };
                let Some(plan) = plan else { continue };
                let damaged: BTreeMap<_, _> = node.machine.lock().damaged.clone();
                for (key, module) in &plan.modules {
                    let signature = module.signature.to_string();
                    let file = node.machine.folder.join("local/modules").join(&signature[..2]).join(&signature);
                    // What was damaged after it was staged is for who starts it to find.
                    if damaged.get(&file).is_none_or(|at| *at >= began) {
                        continue;
                    }
                    let sound =
                        std::fs::read(&file).is_ok_and(|bytes| blake3::hash(&bytes).as_bytes() == module.signature.as_bytes());
                    if !sound {
                        return Err(format!("{name} says that it has staged {id}, and {key} is damaged there"));
                    }
                }
            }
        }
        Ok(())
    }
}
