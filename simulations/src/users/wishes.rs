//! What users want, and in which words it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use rand::seq::IndexedRandom;
use tribune_messages::api::ApiError;
use tribune_node::client::ClientError;
use tribune_raft_store::command::{Rejection, UserCommand};
use tribune_raft_store::model::{
    Decision, OnFailure, PackageId, RolloutStrategy, Span, Targets, UpdateId, UpdateKind, UpdateOptions, UpdateRequest,
};

use super::Users;
use crate::catalogue::{self, Item};

impl Users {
    /// What somebody wants: some packages on some nodes.
    pub(super) fn request(&self) -> UpdateRequest {
        let mut rng = rand::rng();
        let kind = if rand::random_bool(self.likes.regress) { UpdateKind::Regress } else { UpdateKind::Install };
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all: Vec<&Item> = self.items.iter().chain(&published).collect();
        let mut packages: BTreeMap<&str, PackageId> = BTreeMap::new();
        if kind == UpdateKind::Install {
            let unwell: Vec<&Item> = all.iter().copied().filter(|item| catalogue::is_unwell(item)).collect();
            for _ in 0..rand::random_range(1..=3) {
                let from = if rand::random_bool(self.likes.unwell) { &unwell } else { &all };
                if let Some(item) = from.choose(&mut rng) {
                    packages.insert(&item.name, item.id);
                }
            }
        }
        let packages: BTreeSet<PackageId> = packages.into_values().collect();
        let nodes = self.some_nodes().into_iter().map(|node| (node, packages.clone())).collect();
        let options = UpdateOptions {
            strategy: if rand::random_bool(0.5) { RolloutStrategy::Together } else { RolloutStrategy::Rolling },
            on_failure: match rand::random_bool(self.likes.hold) {
                true => OnFailure::Hold,
                false if rand::random_bool(0.3) => OnFailure::RegressNode,
                false => OnFailure::RegressAll,
            },
            skip_away: rand::random_bool(0.3),
            again: rand::random_bool(0.7),
            ephemeral: kind == UpdateKind::Install && rand::random_bool(self.likes.ephemeral),
            max_defer: Span::from_secs(20),
            force: (kind == UpdateKind::Regress && rand::random_bool(0.3)).then(|| "back".to_owned()),
            ..UpdateOptions::default()
        };
        UpdateRequest { kind, targets: Targets { nodes, classes: BTreeMap::new() }, options }
    }
}

pub(super) fn decide(update: UpdateId, ballot_revision: u64, decision: Decision) -> UserCommand {
    UserCommand::Decide { update, ballot_revision, decision }
}

/// Why an order was refused, with what is in the way of a plan.
pub fn why(error: &ClientError) -> String {
    if let ClientError::Api(ApiError::Rejected(rejection)) = error
        && let Rejection::Blocked { plan } = rejection.as_ref()
    {
        let blockers: Vec<String> = plan.blockers.iter().map(ToString::to_string).collect();
        return blockers.join("; ");
    }
    error.to_string()
}

/// Whether an order may have been carried out all the same.
pub fn is_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::Api(ApiError::Timeout { .. } | ApiError::NoMaster { .. } | ApiError::Failed { .. }) => true,
        ClientError::Api(_) | ClientError::Refused { .. } | ClientError::Order(_) => false,
        _ => true,
    }
}

pub(super) fn describe(command: &UserCommand) -> String {
    match command {
        UserCommand::Submit { request } => {
            let nodes: Vec<String> = request.targets.nodes.keys().map(ToString::to_string).collect();
            let packages = request.targets.nodes.values().next().map_or(0, BTreeSet::len);
            let UpdateOptions { strategy, on_failure, ephemeral, .. } = &request.options;
            let kept = if *ephemeral { ", ephemeral" } else { "" };
            format!("submit {:?} of {packages} on {} ({strategy:?}, {on_failure:?}{kept})", request.kind, nodes.join(" "))
        }
        UserCommand::Decide { update, ballot_revision, decision } => {
            format!("decide {update} at {ballot_revision}: {decision:?}")
        }
        UserCommand::CreateToken { node: Some(node), .. } => format!("let {node} in"),
        UserCommand::RemoveNode { node } => format!("remove {node}"),
        UserCommand::Cancel { update } => format!("cancel {update}"),
        UserCommand::Persist { update } => format!("persist {update}"),
        UserCommand::Pause { update } => format!("pause {update}"),
        UserCommand::Resume { update } => format!("resume {update}"),
        other => format!("{other:?}"),
    }
}
