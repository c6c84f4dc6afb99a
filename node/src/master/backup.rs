//! A backup of the whole cluster: the record as it is when it is asked for, and a sound copy of every module.

use std::collections::BTreeMap;

use tribune_master::store_blobs;
use tribune_messages::api::ApiError;
use tribune_p2p::blocking;

use super::no_answer;
use super::reign::Reign;
use crate::backup::make::{Contents, sound};

impl Reign {
    /// Gathers what goes into a backup. Everything that was acknowledged before this was called is in it. A module of which the master
    /// has no sound copy is fetched from who has.
    pub(super) async fn gather(&self) -> Result<Contents, ApiError> {
        let failed = |error: &dyn std::error::Error| ApiError::Failed { what: error.to_string() };
        let applied = self.raft.read().await.map_err(no_answer)?;
        let wanted = store_blobs(&applied.state);
        let blobs = self.store.blobs().clone();
        // Told of, none of them is forgotten while they are read.
        self.store.keep(&wanted, &self.other_stores()).await;
        let mut there = sound(&blobs, &wanted).await.map_err(|error| failed(&error))?;
        let lacking: BTreeMap<_, _> = wanted.into_iter().filter(|(signature, _)| !there.contains(signature)).collect();
        if !lacking.is_empty() {
            // A damaged copy was moved away: now it is missed.
            self.store.keep(&lacking, &self.other_stores()).await;
            there.extend(sound(&blobs, &lacking).await.map_err(|error| failed(&error))?);
        }
        let (name, scratch) = (self.name.clone(), self.store.folder().to_owned());
        let gathering = move || Contents::gather(&applied, name, (blobs, &there), &scratch);
        let gathered = blocking::run(gathering).await;
        gathered.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}
