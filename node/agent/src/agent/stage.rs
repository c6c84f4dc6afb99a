//! Puts what an update changes to into local storage. Its one idea: it is work beside the task that may be stopped and
//! begun again at any moment, since whatever was fetched stays.

use std::sync::Arc;
use std::time::Duration;

use tribune_messages::node::Keep;
use tribune_raft_store::model::{Step, UpdateId};

use super::ModuleSource;
use super::journal::{Journal, Stage};
use super::task::{Finished, Moved, Stuck, Task};
use crate::local::{EphemeralStorage, Installed, LocalError, LocalStorage};

/// How often it is tried until the update fails here.
const TRIES: u32 = 6;
/// How long it waits after the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

impl Task {
    /// Begins to fetch what is lacking.
    pub(super) async fn begin_staging(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        journal.stage = Stage::Staging;
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    /// Begins to put what runs until a restart into local storage.
    pub(super) async fn begin_persisting(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        let Stage::Running { software } = journal.stage else { return Ok(Moved::No) };
        tracing::info!(update = %journal.name, "what runs is put into local storage");
        journal.stage = Stage::Persisting { software, staged: None };
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    /// What runs is in local storage: from here on a node restart starts it.
    pub(super) async fn install(&mut self, id: UpdateId, number: u64) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        self.make_current(number).await?;
        // Its children go on as they are: they run the same modules.
        self.state.live_shown = None;
        tracing::info!(update = %journal.name, generation = number, "what ran is installed");
        journal.persisted(self.state.current.generation.clone());
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    /// Keeps the work going while it is to be done.
    pub(super) fn keep_staging(&mut self, id: UpdateId) {
        let Some(scope) = self.scope(id) else { return };
        let Some(open) = self.state.updates.get_mut(&id) else { return };
        let journal = &open.journal;
        let to = match &journal.stage {
            Stage::Staging if journal.keep == Keep::UntilRestart => To::Ephemeral,
            Stage::Staging | Stage::Persisting { staged: None, .. } => To::Local,
            _ => return,
        };
        if open.staging.is_some() {
            return;
        }
        let staging = Staging {
            local: self.storage.clone(),
            ephemeral: self.ephemeral.clone(),
            to,
            source: self.source.clone(),
            base: scope.old.clone(),
            journal: journal.clone(),
        };
        open.staging = Some(self.work.spawn(async move { Finished::Staged { update: id, result: staging.run().await } }));
    }

    /// What is being fetched is not wanted for now.
    pub(super) async fn stop_staging(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        self.abort_staging(id);
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        journal.stage = Stage::Asking;
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    pub(super) fn abort_staging(&mut self, id: UpdateId) {
        let staging = self.state.updates.get_mut(&id).and_then(|open| open.staging.take());
        staging.into_iter().for_each(|staging| staging.abort());
    }

    /// Staging has come to its end. Its generation is on disk before the journal says so.
    pub(super) fn note_staged(&mut self, id: UpdateId, result: Result<Installed, String>) {
        let Some(open) = self.state.updates.get_mut(&id) else { return };
        open.staging = None;
        if let Stage::Persisting { staged: None, software } = open.journal.stage.clone() {
            let journal = open.note();
            match result {
                Ok(installed) => journal.stage = Stage::Persisting { software, staged: Some(installed.number()) },
                Err(why) => {
                    tracing::warn!(update = %journal.name, why, "what runs could not be put into local storage");
                    journal.stage = Stage::Running { software };
                    journal.unpersistable = Some(format!("it could not be installed: {why}"));
                }
            }
            return;
        }
        if !matches!(open.journal.stage, Stage::Staging) {
            return;
        }
        let journal = open.note();
        match result {
            Ok(installed) => {
                tracing::info!(update = %journal.name, software = %installed.software(), "everything is staged");
                journal.staged = Some(installed.number());
                journal.stage = Stage::Staged;
                // Its number is known now.
                open.scope = None;
            }
            Err(why) => {
                tracing::warn!(update = %journal.name, why, "the update fails on this node");
                journal.stage = Stage::Failed { step: Step::Voted, why };
            }
        }
    }
}

/// The work.
struct Staging {
    local: LocalStorage,
    ephemeral: EphemeralStorage,
    to: To,
    source: Arc<dyn ModuleSource>,
    base: Installed,
    journal: Journal,
}

impl Staging {
    async fn run(self) -> Result<Installed, String> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            match self.once().await {
                Ok(installed) => return Ok(installed),
                // Neither changes by waiting.
                Err(Problem::Storage(error @ LocalError::Plan(_))) => return Err(error.to_string()),
                Err(Problem::Storage(error)) if self.journal.plan.local => return Err(error.to_string()),
                Err(problem) if tries >= TRIES => return Err(problem.to_string()),
                Err(problem) => tracing::warn!(update = %self.journal.name, %problem, "staging is tried again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            tries += 1;
        }
    }

    async fn once(&self) -> Result<Installed, Problem> {
        let Journal { update, plan, manifests, .. } = &self.journal;
        // What is on this node already comes from there.
        let (storage, near) = match (self.to, self.journal.keep) {
            (To::Local, Keep::Installed) => (self.local.clone(), None),
            (To::Local, Keep::UntilRestart) => (self.local.clone(), Some(self.ephemeral.of(*update).await?)),
            (To::Ephemeral, _) => (self.ephemeral.of(*update).await?, Some(self.local.clone())),
        };
        if !plan.local {
            for (signature, size) in storage.lacking(plan).await? {
                if let Some(near) = &near
                    && storage.take_from(near, signature).await?
                {
                    continue;
                }
                let module = plan.modules.iter().find(|(_, module)| module.signature == signature);
                let name = module.map_or("a module", |(name, _)| name.as_str());
                tracing::info!(update = %self.journal.name, module = name, %signature, size, "fetching");
                let fetched = self.source.fetch(signature, size, storage.blobs()).await;
                fetched.map_err(|why| Problem::Fetch { module: name.to_owned(), why })?;
            }
        }
        Ok(storage.stage(*update, &self.base, plan, manifests).await?)
    }
}

/// Where it is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// Local storage.
    Local,
    /// Beside it, until the node is restarted.
    Ephemeral,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Storage(#[from] LocalError),
    #[error("{module} could not be fetched: {why}")]
    Fetch { module: String, why: String },
}
