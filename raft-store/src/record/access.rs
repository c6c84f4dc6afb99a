//! Who may order what.

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
        let (role, name) = self.role_of(&order.key).ok_or(Rejection::UnknownKey { key: order.key })?;
        let needs = opened.command.needs();
        if role < needs {
            return Err(Rejection::Role { name, has: role, needs });
        }
        Ok((opened, Author { key: order.key, name }))
    }
}
