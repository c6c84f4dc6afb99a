//! Users' orders: the master looks at what is ordered, adds what it found out for it, and proposes it.
//!
//! One idea: the record decides. What the master adds is checked by `apply` against the record as it is then; when that has changed
//! meanwhile, the master looks again. A repeat of an order gets the first answer from the record, so nothing is answered here that the
//! record could answer.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::sleep_until;
use tracing::info;
use tribune_master::liveness::GRACE;
use tribune_master::{plan, plan_again};
use tribune_messages::api::{ApiError, ApiResponse, ApiResult};
use tribune_raft_store::command::{Body, Evidence, Order, SignedOrder, UserCommand};
use tribune_raft_store::model::{Blocker, Decision, Manifest, NodeName, PackageId, Plan, Signature, UpdateId, UpdateRequest};
use tribune_raft_store::record::Record;

use super::no_answer;
use super::reign::Reign;

/// How often what the master adds is found out anew because the record has changed meanwhile.
const TRIES: u32 = 5;

impl Reign {
    /// Carries out a user's order.
    pub(super) async fn order(&self, order: SignedOrder) -> ApiResult {
        // What is not signed, or not readable, need not go into the log.
        let opened = order.open().map_err(|error| ApiError::Rejected(Box::new(error.into())))?;
        let Order { cluster: _, request, expires: _, command } = opened;
        // One that may not order it is told so by the record; nothing is found out for it.
        let applied = self.applied();
        let who = applied.state.role_of(&order.key);
        let may = who.as_ref().is_some_and(|(role, _)| *role >= command.needs());
        let mut left = TRIES;
        loop {
            left -= 1;
            let proposed = if may { self.with_evidence(&order, &command).await? } else { self.send(&order, None).await? };
            match proposed {
                Ok(accepted) => {
                    let by = who.as_ref().map(|(_, name)| name);
                    info!(%request, by, ?accepted, "an order was carried out");
                    return Ok(ApiResponse::Accepted(accepted));
                }
                Err(rejection) if rejection.is_outdated() && left > 0 => {}
                Err(rejection) => {
                    info!(%request, why = %rejection, "an order was rejected");
                    return Err(ApiError::Rejected(Box::new(rejection)));
                }
            }
        }
    }

    async fn send(
        &self,
        order: &SignedOrder,
        evidence: Option<Evidence>,
    ) -> Result<tribune_raft_store::command::Response, ApiError> {
        let body = Body::User { order: order.clone(), evidence: evidence.map(Box::new) };
        self.raft.propose(body).await.map_err(no_answer)
    }

    async fn with_evidence(
        &self,
        order: &SignedOrder,
        command: &UserCommand,
    ) -> Result<tribune_raft_store::command::Response, ApiError> {
        match command {
            UserCommand::Publish { packages } => {
                // Held until it is committed: the membership its receipts count under does not change meanwhile.
                let _here = self.publishing.read().await;
                let evidence = self.stored(packages).await?;
                self.send(order, Some(evidence)).await
            }
            UserCommand::Submit { request } => {
                let plan = self.plan(request).await?;
                self.send(order, Some(Evidence::Plan(plan))).await
            }
            UserCommand::Decide { update, decision: Decision::Only { nodes }, .. } => {
                let plan = self.plan_only(*update, nodes).await?;
                self.send(order, plan.map(Evidence::Plan)).await
            }
            UserCommand::CreateToken { .. }
            | UserCommand::LabelNode { .. }
            | UserCommand::ReleaseNode { .. }
            | UserCommand::SetClass { .. }
            | UserCommand::Decide { .. }
            | UserCommand::Cancel { .. }
            | UserCommand::Persist { .. }
            | UserCommand::Pause { .. }
            | UserCommand::Resume { .. }
            | UserCommand::RemovePackage { .. }
            | UserCommand::RemoveClass { .. }
            | UserCommand::RemoveNode { .. }
            | UserCommand::SetVoter { .. }
            | UserCommand::SetSettings { .. }
            | UserCommand::RemovePrincipal { .. }
            | UserCommand::SetPrincipal { .. } => self.send(order, None).await,
        }
    }

    /// What an update would do. A new master that misses a node waits until nodes have had time to come.
    pub(super) async fn plan(&self, request: &UpdateRequest) -> Result<Plan, ApiError> {
        let mut present = self.liveness.subscribe();
        let settled = self.instant(tribune_master::MasterClock::default().after(GRACE));
        loop {
            let applied = self.raft.read().await.map_err(no_answer)?;
            let plan = plan(&applied.state, request, &present.borrow_and_update(), Some(&self.name));
            let misses = plan.blockers.iter().any(|blocker| matches!(blocker, Blocker::NodeAway { .. }));
            let left_out = request.options.skip_away && !plan.left_out.is_empty();
            if !(misses || left_out) || self.liveness.borrow().settled(self.now()) {
                return Ok(plan);
            }
            tokio::select! {
                _ = present.changed() => {}
                () = sleep_until(settled) => {}
                () = self.over.cancelled() => return Err(ApiError::NoMaster { since: None }),
            }
        }
    }

    /// The plan of an update with some of its nodes; `None`: there is no such update, which the record says.
    async fn plan_only(&self, update: UpdateId, nodes: &BTreeSet<NodeName>) -> Result<Option<Plan>, ApiError> {
        let applied = self.raft.read().await.map_err(no_answer)?;
        let record = &applied.state;
        let Some(update) = record.updates().get(&update) else { return Ok(None) };
        Ok(Some(plan_again(record, update, Some(nodes), &self.liveness.borrow(), Some(&self.name))))
    }

    /// The manifests of packages that were uploaded, and who has their modules.
    async fn stored(&self, packages: &BTreeSet<PackageId>) -> Result<Evidence, ApiError> {
        let applied = self.raft.read().await.map_err(no_answer)?;
        let mut manifests = Vec::new();
        for id in packages {
            manifests.push(self.manifest(&applied.state, *id).await?);
        }
        let blobs = blobs_of(&manifests)?;
        let collected = self.collect(&blobs).await?;
        Ok(Evidence::Stored { manifests, receipts: collected.receipts, membership: collected.membership })
    }

    /// The manifest of a package that is published, or was uploaded to this master.
    async fn manifest(&self, record: &Record, id: PackageId) -> Result<String, ApiError> {
        if let Some(package) = record.packages().get(&id) {
            return Ok(package.text.clone());
        }
        match self.store.manifest(id).await {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(ApiError::NotUploaded { package: id }),
            Err(error) => Err(ApiError::Failed { what: error.to_string() }),
        }
    }
}

/// The modules of these packages, with their sizes in bytes.
fn blobs_of(manifests: &[String]) -> Result<BTreeMap<Signature, u64>, ApiError> {
    let mut blobs = BTreeMap::new();
    for text in manifests {
        let manifest = Manifest::parse(text).map_err(|error| ApiError::Bad { what: error.to_string() })?;
        blobs.extend(manifest.modules.iter().map(|module| (module.signature, module.size)));
    }
    Ok(blobs)
}
