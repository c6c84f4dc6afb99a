//! A recovery: an admin's signed word that one node alone is the cluster from now on.
//!
//! One idea: a cluster whose majority is gone for good has nobody left whom its nodes could believe by counting voices. So they
//! believe the signature of an admin, whose key each of them has on disk, and of two such words the one with the higher epoch.

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::ids::{ClusterId, KeySignature, NodeName, PeerId, PublicKey, Timestamp};

/// What is put before a recovery's text when it is signed, so that its signature fits nothing else.
pub const RECOVERY_CONTEXT: &[u8] = b"tribune recovery 1\n";
/// The longest text of a recovery, in bytes of its JSON.
pub const MAX_RECOVERY_BYTES: usize = 64 << 10;
/// The highest recovery epoch: a Raft id has sixteen bits for it.
pub const MAX_EPOCH: u64 = 0xffff;
/// How many numbers of updates each recovery epoch has for itself.
pub const UPDATES_OF_AN_EPOCH: u64 = 1_000_000;
/// How many numbers of events each recovery epoch has for itself.
pub const EVENTS_OF_AN_EPOCH: u64 = 1_000_000_000;

/// The Raft id that the entry with this log index gives in this recovery epoch; none is given twice.
pub fn raft_id(epoch: u64, index: u64) -> u64 {
    epoch << 48 | index
}

/// What an admin signs: this node alone is the cluster, from this recovery epoch on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The cluster.
    pub cluster: ClusterId,
    /// The recovery epoch that begins.
    pub epoch: u64,
    /// The only voter.
    pub voter: OnlyVoter,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// When it stops being good for a node that has a master.
    pub expires: Timestamp,
}

/// The only voter of a recovered cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlyVoter {
    /// Its name.
    pub name: NodeName,
    /// Its identity on the network.
    pub peer: PeerId,
    /// Its public key.
    pub key: PublicKey,
    /// Its Raft id.
    pub raft_id: u64,
    /// Where its control network listens, as multiaddresses.
    pub control: Vec<String>,
    /// Where its data network listens, as multiaddresses.
    pub data: Vec<String>,
}

/// A recovery with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecovery {
    /// Who signed.
    pub key: PublicKey,
    /// The JSON of a [`Recovery`], verbatim as it was signed.
    pub content: String,
    /// The ed25519 signature over [`RECOVERY_CONTEXT`] and the content.
    pub signature: KeySignature,
}

/// Why a recovery is not one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryError {
    /// The text is too long.
    #[error("the recovery has more than {MAX_RECOVERY_BYTES} bytes")]
    TooLong,
    /// The signature does not fit.
    #[error("the recovery's signature is wrong: it was changed on its way, or signed with another key than {0}")]
    Signature(PublicKey),
    /// The text is not a recovery.
    #[error("the recovery cannot be read: {0}")]
    Malformed(String),
}

impl Recovery {
    /// Signs it: `sign` makes the ed25519 signature of bytes with the secret of `key`.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn sign(&self, key: PublicKey, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Result<SignedRecovery, RecoveryError> {
        let content = serde_json::to_string(self).map_err(|error| RecoveryError::Malformed(error.to_string()))?;
        let signature = KeySignature::new(sign(&signed_bytes(&content)));
        Ok(SignedRecovery { key, content, signature })
    }
}

impl SignedRecovery {
    /// Checks the signature and reads what was signed. Whether its signer may say so is for who knows the admins.
    ///
    /// # Errors
    /// The signature or the text is wrong.
    pub fn open(&self) -> Result<Recovery, RecoveryError> {
        if self.content.len() > MAX_RECOVERY_BYTES {
            return Err(RecoveryError::TooLong);
        }
        let wrong = || RecoveryError::Signature(self.key);
        let key = VerifyingKey::from_bytes(self.key.as_bytes()).map_err(|_| wrong())?;
        let signature = ed25519_dalek::Signature::from_bytes(self.signature.as_bytes());
        // Strict: all must agree on which signatures are good.
        key.verify_strict(&signed_bytes(&self.content), &signature).map_err(|_| wrong())?;
        serde_json::from_str(&self.content).map_err(|error| RecoveryError::Malformed(error.to_string()))
    }
}

fn signed_bytes(content: &str) -> Vec<u8> {
    [RECOVERY_CONTEXT, content.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn signed() -> (Recovery, SignedRecovery) {
        let secret = SigningKey::from_bytes(&[7; 32]);
        let key = PublicKey::new(secret.verifying_key().to_bytes());
        let voter = OnlyVoter {
            name: "n1".parse().unwrap(),
            peer: PeerId::new("n1").unwrap(),
            key,
            raft_id: raft_id(1, 9),
            control: vec!["/ip4/127.0.0.1/tcp/1".into()],
            data: Vec::new(),
        };
        let cluster = ClusterId::new([1; 16]);
        let recovery = Recovery { cluster, epoch: 1, voter, signed_at: Timestamp(5), expires: Timestamp(9) };
        let signed = recovery.sign(key, |bytes| secret.sign(bytes).to_bytes()).unwrap();
        (recovery, signed)
    }

    #[test]
    fn a_recovery_is_read_back_and_one_that_was_changed_or_signed_for_something_else_is_not() {
        let (recovery, signed) = signed();
        assert_eq!(signed.open().unwrap(), recovery);
        let changed = SignedRecovery { content: signed.content.replace("\"epoch\":1", "\"epoch\":2"), ..signed.clone() };
        assert_eq!(changed.open(), Err(RecoveryError::Signature(signed.key)));
        let secret = SigningKey::from_bytes(&[7; 32]);
        let other = recovery.sign(signed.key, |bytes| secret.sign(&bytes[RECOVERY_CONTEXT.len()..]).to_bytes()).unwrap();
        assert_eq!(other.open(), Err(RecoveryError::Signature(signed.key)), "a signature without the context");
        let long = SignedRecovery { content: " ".repeat(MAX_RECOVERY_BYTES + 1), ..signed };
        assert_eq!(long.open(), Err(RecoveryError::TooLong));
    }

    #[test]
    fn raft_ids_of_a_later_epoch_are_greater_than_all_before() {
        assert!(raft_id(1, 1) > raft_id(0, u64::from(u32::MAX)));
        assert!(raft_id(MAX_EPOCH, 1) > raft_id(MAX_EPOCH - 1, 1));
    }
}
