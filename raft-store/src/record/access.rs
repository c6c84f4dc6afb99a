//! Who may order what, and whose packages come to nodes.

use super::Record;
use crate::command::{MAX_ORDER_LIFE, Order, Rejection, SignedOrder};
use crate::model::{Author, PublicKey, Role, Span, Timestamp};

impl Record {
    /// What this key may do, and its name.
    pub fn role_of(&self, key: &PublicKey) -> Option<(Role, String)> {
        if let Some(principal) = self.principals.get(key) {
            return Some((principal.role, principal.name.to_string()));
        }
        let node = self.nodes.values().find(|node| node.key == *key)?;
        Some((node.local_commands, format!("node {}", node.name)))
    }

    /// Checks an order's signature, cluster, time and role; returns it and its author.
    pub(super) fn authorised(&self, order: &SignedOrder, now: Timestamp) -> Result<(Order, Author), Rejection> {
        let opened = order.open()?;
        let cluster = self.cluster().ok_or(Rejection::NotCreated)?;
        if opened.cluster != cluster.id {
            return Err(Rejection::OtherCluster { given: opened.cluster, here: cluster.id });
        }
        if opened.expires < now {
            return Err(Rejection::Expired { ago: Span::from_millis(now.since(opened.expires)) });
        }
        if opened.expires.since(now) > MAX_ORDER_LIFE.as_millis() {
            return Err(Rejection::TooFarAhead);
        }
        let name = self.may(&order.key, opened.command.needs())?;
        Ok((opened, Author { key: order.key, name }))
    }

    /// The name of a key that may do what needs this role.
    pub(super) fn may(&self, key: &PublicKey, needs: Role) -> Result<String, Rejection> {
        let (role, name) = self.role_of(key).ok_or(Rejection::UnknownKey { key: *key })?;
        if role < needs { Err(Rejection::Role { name, has: role, needs }) } else { Ok(name) }
    }

    /// Whether packages that this key published may come to nodes: it may publish today. It is asked when a package is published and
    /// when a plan brings one to a node. What a node has runs on whatever became of its publisher.
    ///
    /// # Errors
    /// Why not.
    pub fn authorise(&self, publisher: &PublicKey) -> Result<(), Rejection> {
        // A machine that left the cluster, or was replaced, was not revoked: what users published by its socket was theirs.
        if self.removed.values().any(|node| node.key == *publisher) {
            return Ok(());
        }
        self.may(publisher, Role::Publisher).map(drop)
    }
}
