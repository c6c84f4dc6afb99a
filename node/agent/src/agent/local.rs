//! Going back on a node by itself, without the cluster. Its one idea: it is an update like any other, with a journal and
//! the same steps; only what it should come to is worked out here ([`update::local_want`](super::update::local_want))
//! and not by the master.

use std::collections::BTreeSet;

use tokio::sync::oneshot;
use tribune_messages::node::{Directive, Keep, Want};
use tribune_raft_store::model::{Generation, NodePlan, PackageChange, PackageName, PlannedModule, Span, UpdateId, UpdateKind};

use super::LocalRegressError;
use super::journal::{FIRST_LOCAL_UPDATE, Journal, LocalOrder};
use super::task::{Moved, Open, Task};
use crate::local::Installed;

/// How long processes may defer, all in all.
const MAX_DEFER: Span = Span::from_secs(600);

impl Task {
    /// Begins to go back, or says why not.
    pub(super) async fn local_regress(
        &mut self,
        generation: Option<u64>,
        force: Option<String>,
        answer: oneshot::Sender<Result<Generation, LocalRegressError>>,
    ) {
        let installed = generation.is_none_or(|to| to == self.state.current.number());
        if let Some(update) = self.until_restart().map(|software| software.update).filter(|_| installed) {
            return self.local_undo(update, answer).await;
        }
        match self.begin_local(generation, force).await {
            Ok(journal) => {
                self.state.local_answers.insert(journal.update, answer);
                self.state.updates.insert(journal.update, Open::of(journal));
            }
            Err(why) => {
                let _ = answer.send(Err(LocalRegressError::Refused(why)));
            }
        }
    }

    /// Takes back what runs until a restart, as a restart would. Its processes are told, and not asked.
    async fn local_undo(&mut self, update: UpdateId, answer: oneshot::Sender<Result<Generation, LocalRegressError>>) {
        let why = match self.go_back(update, Some("it was taken back on this node".into())).await {
            Ok(Moved::Yes) => return drop(self.state.local_answers.insert(update, answer)),
            Ok(Moved::No) => self.unreadable(update).await,
            Err(stuck) => LocalRegressError::Failed(stuck.to_string()),
        };
        // Whoever asked may have lost interest.
        let _ = answer.send(Err(why));
    }

    /// Why what an update runs here cannot be taken back.
    async fn unreadable(&mut self, update: UpdateId) -> LocalRegressError {
        let why = match self.work_out(update).await {
            Err(stuck) => stuck.to_string(),
            Ok(_) => "it is not in the node's storage".to_owned(),
        };
        LocalRegressError::Refused(format!(
            "what {update} runs here cannot be read: {why}; restart the node, which then starts what is installed"
        ))
    }

    async fn begin_local(&self, generation: Option<u64>, force: Option<String>) -> Result<Journal, String> {
        // What was taken back before is over on this node, whether the master has heard of it or not.
        let holds = |open: &&Open| !open.journal.has_ended() && !open.journal.is_undone();
        if let Some(open) = self.state.updates.values().find(holds) {
            let name = &open.journal.name;
            return Err(format!("update {name} is open on this node; cancel it first (`tribune update cancel {name}`)"));
        }
        let current = &self.state.current;
        let to = match generation.or(current.generation.replaced) {
            Some(to) if to == current.number() => return Err(format!("generation {to} is what is installed")),
            Some(to) if to == 0 || self.state.kept.contains_key(&to) => to,
            Some(to) => {
                return Err(format!("there is no generation {to} to go back to; `tribune local show` lists those there are"));
            }
            None => return Err("there is nothing to go back to: the current generation replaced none".into()),
        };
        let target = self.storage.installed(to).await.map_err(|error| error.to_string())?;
        let free = |number: &u64| !self.state.updates.contains_key(&UpdateId(*number));
        let update = (FIRST_LOCAL_UPDATE..).find(free).map(UpdateId).ok_or("too many changes are open")?;
        let directive = Directive {
            update,
            revision: 1,
            round: 0,
            kind: UpdateKind::Regress,
            want: Want::Voted,
            plan: plan_between(current, &target),
            manifests: Vec::new(),
            max_defer: MAX_DEFER,
            keep: Keep::Installed,
            overruled: Vec::new(),
        };
        let mut journal = Journal::begin(&directive, current.number(), self.now());
        // Processes must not take it for one they have heard of.
        journal.name = format!("local-{to}-{}", self.now());
        journal.local = Some(LocalOrder { to, force });
        Ok(journal)
    }
}

/// The plan that leads from what is installed to what was.
fn plan_between(from: &Installed, to: &Installed) -> NodePlan {
    let names: BTreeSet<&PackageName> = from.generation.packages.keys().chain(to.generation.packages.keys()).collect();
    let version = |installed: &Installed, name: &PackageName| installed.generation.packages.get(name).copied();
    let changes = names
        .into_iter()
        .map(|name| PackageChange { name: name.clone(), from: version(from, name), to: version(to, name) })
        .filter(|change| change.from != change.to)
        .collect();
    let modules = to.modules().map(|module| {
        let planned = PlannedModule {
            package: module.package.id,
            index: module.index,
            signature: module.module.signature,
            size: module.module.size,
        };
        (module.key.to_owned(), planned)
    });
    NodePlan { changes, modules: modules.collect(), local: true }
}
