//! What a recovery makes of the record.

use ed25519_dalek::{Signer, SigningKey};
use tribune_raft_store::command::{Accepted, MasterCommand, NewNode, Rejection, Response, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, new_node_with, node};
use crate::stories::fleet;

fn key_of(secret: &SigningKey) -> PublicKey {
    PublicKey::new(secret.verifying_key().to_bytes())
}

/// A recovery that makes this node the only voter, for the next place in the log.
fn recovery(fleet: &Fleet, epoch: u64, voter: NewNode, by: &SigningKey) -> SignedRecovery {
    let voter = OnlyVoter {
        name: voter.name,
        peer: voter.peer,
        key: voter.key,
        raft_id: raft_id(epoch, fleet.index + 1),
        control: vec!["/ip4/10.0.0.9/tcp/7400".into()],
        data: vec!["/ip4/10.0.0.9/tcp/7401".into()],
    };
    let cluster = ClusterId::new([1; 16]);
    let expires = fleet.time.after(Span::from_secs(60));
    let recovery = Recovery { cluster, epoch, voter, signed_at: fleet.time, expires };
    recovery.sign(key_of(by), |bytes| by.sign(bytes).to_bytes()).unwrap()
}

fn admin() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn recover(fleet: &mut Fleet, epoch: u64, name: &str, identity: &str) -> Response {
    let recovery = recovery(fleet, epoch, new_node_with(name, identity), &admin());
    fleet.tell(MasterCommand::Recover { recovery })
}

fn voters(names: &[&str]) -> Fleet {
    let mut fleet = Fleet::new(names);
    for name in &names[1..] {
        fleet.tell(MasterCommand::MakeStandby { node: node(name) }).unwrap();
        fleet.tell(MasterCommand::MakeVoter { node: node(name) }).unwrap();
    }
    fleet
}

#[test]
fn one_node_is_the_only_voter_and_no_raft_id_or_number_is_given_again() {
    let mut fleet = voters(&["a", "b", "c", "d"]);
    fleet.order(UserCommand::RemoveNode { node: node("d") }, None).unwrap();
    let before = fleet.node("c").raft.raft_id();
    assert_eq!(recover(&mut fleet, 1, "b", "b"), Ok(Accepted::Done));
    let cluster = fleet.record.cluster().unwrap().clone();
    assert_eq!((cluster.epoch, cluster.next_update), (1, UPDATES_OF_AN_EPOCH + 1));
    assert_eq!(cluster.recovery.unwrap().open().unwrap().voter.name, node("b"));
    assert_eq!(fleet.node("b").raft, RaftRole::Voter { raft_id: raft_id(1, fleet.index) });
    assert_eq!(fleet.node("b").facts.control_addresses, ["/ip4/10.0.0.9/tcp/7400"]);
    for name in ["a", "c"] {
        assert_eq!(fleet.node(name).raft, RaftRole::Member, "{name}");
    }
    assert!(!fleet.record.nodes().contains(&node("d")), "it only waited for Raft to let it go");
    let last = fleet.record.events().values().rev().find(|event| event.kind == EventKind::ClusterRecovered).unwrap();
    assert!(last.seq > EVENTS_OF_AN_EPOCH && last.text.contains("from node b alone"), "{last:?}");
    fleet.tell(MasterCommand::MakeStandby { node: node("c") }).unwrap();
    let now = fleet.node("c").raft.raft_id();
    assert!(now > before && now == Some(raft_id(1, fleet.index)), "{now:?} after {before:?}");
}

#[test]
fn only_an_admin_can_say_so_once_for_each_epoch_and_for_one_place_in_the_log() {
    let mut fleet = voters(&["a", "b"]);
    let stranger = recovery(&fleet, 1, new_node_with("b", "b"), &SigningKey::from_bytes(&[9; 32]));
    let told = fleet.tell(MasterCommand::Recover { recovery: stranger });
    assert!(matches!(told, Err(Rejection::UnknownKey { .. })), "{told:?}");
    let of_b = SigningKey::from_bytes(Signature::of(b"b").as_bytes());
    let by_node = recovery(&fleet, 1, new_node_with("b", "b"), &of_b);
    let told = fleet.tell(MasterCommand::Recover { recovery: by_node });
    assert!(matches!(told, Err(Rejection::Role { .. })), "a node that joined is no admin: {told:?}");
    let outdated = recovery(&fleet, 1, new_node_with("b", "b"), &admin());
    fleet.tell(MasterCommand::MakeMember { node: node("b") }).unwrap();
    let told = fleet.tell(MasterCommand::Recover { recovery: outdated });
    assert!(matches!(told, Err(Rejection::RecoveryPlace { .. })), "{told:?}");
    assert_eq!(fleet.record.cluster().unwrap().epoch, 0, "nothing was changed");
    // The node where the cluster was made may act as an admin.
    let of_a = SigningKey::from_bytes(Signature::of(b"a").as_bytes());
    let by_first = recovery(&fleet, 3, new_node_with("a", "a"), &of_a);
    assert_eq!(fleet.tell(MasterCommand::Recover { recovery: by_first }), Ok(Accepted::Done));
    for epoch in [0, 3, MAX_EPOCH + 1] {
        let told = recover(&mut fleet, epoch, "b", "b");
        assert!(matches!(told, Err(Rejection::Epoch { here: 3, .. })), "{epoch}: {told:?}");
    }
}

#[test]
fn a_new_machine_takes_the_place_of_a_node_and_what_it_was_never_comes_back() {
    let (mut fleet, ..) = fleet();
    let before = fleet.node("b").clone();
    assert_eq!(recover(&mut fleet, 1, "b", "fresh"), Ok(Accepted::Done));
    let now = fleet.node("b").clone();
    assert_eq!((now.peer, now.class, now.should), (new_node_with("b", "fresh").peer, before.class, before.should));
    assert!(fleet.record.removed().contains(&before.peer));
    let told = recover(&mut fleet, 2, "a", "b");
    assert!(matches!(told, Err(Rejection::PeerRemoved { .. })), "{told:?}");
    let told = recover(&mut fleet, 2, "a", "fresh");
    assert!(matches!(told, Err(Rejection::PeerTaken { .. })), "{told:?}");
    let told = recover(&mut fleet, 2, "nobody", "x");
    assert!(matches!(told, Err(Rejection::UnknownNode { .. })), "{told:?}");
}
