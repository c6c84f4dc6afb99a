//! Staging: from a plan to a generation that is complete and on disk, and not yet current.
//!
//! One idea: each step adds something that nothing refers to yet, and the last gives the generation its number. A crash
//! between leaves what was before; the same call again finds what is done and does the rest.

use tribune_raft_store::model::{NodePlan, UpdateId};

use super::installed::Installed;
use super::{LocalError, LocalStorage};

impl LocalStorage {
    /// Stages a plan, while nobody else changes generations.
    pub(super) async fn stage_alone(
        &self,
        update: UpdateId,
        base: Installed,
        plan: NodePlan,
        manifests: Vec<String>,
    ) -> Result<Installed, LocalError> {
        let (planned, found) = self
            .reading(move |disk| {
                let planned = disk.planned(&base, &plan, &manifests)?;
                let found = match disk.answering(&base, &plan, &planned)? {
                    Some(found) => Some(found),
                    None => disk.made_by(update, &planned)?,
                };
                Ok((planned, found))
            })
            .await?;
        if let Some(found) = found {
            // It was complete once; whether it still is has to be known before anyone relies on it.
            self.make_ready(&found).await?;
            self.verify_modules(&found).await?;
            return Ok(found);
        }
        self.make_ready(&planned).await?;
        self.reading(move |disk| disk.make(update, planned)).await
    }
}
