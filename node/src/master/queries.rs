//! Users' questions to the record, and waiting for something new in it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tribune_messages::api::{ApiError, ApiResponse, ApiResult, LONGEST_WAIT, Query, Wait};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::UpdateId;

use super::published::{Published, index_of};
use super::reign::{Reign, wall_clock};
use super::{answers, no_answer};

/// The most rows of one answer.
const MOST: u32 = 1000;

impl Reign {
    /// Answers a question with a record that has everything that was committed when it was asked.
    pub(super) async fn query(&self, query: Query) -> ApiResult {
        let read = match planted(Bug::QuestionsWithoutAMajority) {
            true => self.applied(),
            false => self.raft.read().await.map_err(no_answer)?,
        };
        let record = &read.state;
        Ok(match query {
            Query::Nodes => ApiResponse::Nodes(answers::nodes(record, &self.liveness.borrow().clone(), &self.name)),
            Query::Settings => {
                ApiResponse::Settings(record.cluster().map(|cluster| cluster.settings.clone()).unwrap_or_default())
            }
            Query::Principals => ApiResponse::Principals(answers::principals(record)),
            Query::Unmet => ApiResponse::Unmet(answers::unmet(record)),
            Query::Classes => ApiResponse::Classes(answers::classes(record)),
            Query::Packages { name } => ApiResponse::Packages(answers::packages(record, name.as_ref())),
            Query::Updates { limit } => ApiResponse::Updates(answers::updates(record, limit.min(MOST) as usize)),
            Query::Update { update, after } => self.update(update, after, index_of(&read)).await?,
            Query::Events { after, limit, wait } => self.events(after, limit.min(MOST), wait, index_of(&read)).await?,
        })
    }

    async fn update(&self, id: UpdateId, after: Option<u64>, index: u64) -> ApiResult {
        let seen = self
            .wait(index, after.map_or(Wait::No, |_| Wait::ForSomething), |seen| {
                // One that is not there is answered at once.
                after.is_none_or(|after| seen.index() > after && seen.changed_after(id, after))
                    || !seen.record().updates().contains(&id)
            })
            .await?;
        let record = seen.record();
        let Some(update) = record.updates().get(&id) else {
            return Err(ApiError::NotFound {
                what: format!("there is no update {id}; `tribune update list` shows those there are"),
            });
        };
        let now = wall_clock().max(record.cluster().map(|cluster| cluster.time).unwrap_or_default());
        let away = tribune_master::missing(update, &self.liveness.borrow(), self.now());
        Ok(ApiResponse::Update(Box::new(answers::update(record, update, seen.index(), now, away))))
    }

    async fn events(&self, after: Option<u64>, limit: u32, wait: Wait, index: u64) -> ApiResult {
        // Without `after` those from now on are waited for.
        let asked = self.applied();
        let last = asked.state.cluster().map_or(0, |cluster| cluster.next_event.saturating_sub(1));
        let from = match wait {
            Wait::No => after,
            Wait::ForSomething => Some(after.unwrap_or(last)),
        };
        let something = |seen: &Published| {
            seen.record().events().values().next_back().is_some_and(|event| from.is_none_or(|from| event.seq > from))
        };
        let seen = self.wait(index, wait, something).await?;
        Ok(ApiResponse::Events(answers::events(seen.record(), from, limit as usize)))
    }

    /// The first record, not older than `index`, of which `there` says that it has something new; or, when that is not waited for or took
    /// too long, the one there is.
    async fn wait(&self, index: u64, wait: Wait, there: impl Fn(&Published) -> bool) -> Result<Arc<Published>, ApiError> {
        let mut published: watch::Receiver<Arc<Published>> = self.published.clone();
        let deadline = Instant::now() + LONGEST_WAIT.as_duration();
        let waits = wait == Wait::ForSomething;
        let found = published.wait_for(|seen| seen.index() >= index && (!waits || there(seen)));
        tokio::select! {
            found = found => return found.map(|seen| seen.clone()).map_err(|_| ApiError::NoMaster { since: None }),
            () = self.over.cancelled() => return Err(ApiError::NoMaster { since: None }),
            () = sleep_until(deadline) => {}
        }
        Ok(self.published.borrow().clone())
    }
}
