//! Who may do what, and classes that come and go, entry by entry.

use serde_json::json;
use tribune_raft_store::command::{JoinAs, MasterCommand, Rejection, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, manifest, new_node_with, node, nodes};

fn principal(number: u8, role: Role) -> UserCommand {
    let name = PrincipalName::new(format!("user{number}")).unwrap();
    UserCommand::SetPrincipal { key: PublicKey::new([number; 32]), name, role }
}

#[test]
fn the_last_admin_can_neither_be_removed_nor_made_less() {
    let mut fleet = Fleet::new(&["a"]);
    let (admin, row) = fleet.record.principals().iter().next().map(|(key, row)| (*key, row.clone())).unwrap();
    let last = Err(Rejection::LastAdmin { name: row.name.to_string() });
    assert_eq!(fleet.order(UserCommand::RemovePrincipal { key: admin }, None), last);
    let less = UserCommand::SetPrincipal { key: admin, name: row.name.clone(), role: Role::Viewer };
    assert_eq!(fleet.order(less, None), last);
    fleet.order(principal(1, Role::Operator), None).unwrap();
    assert_eq!(fleet.order(UserCommand::RemovePrincipal { key: admin }, None), last, "an operator is none");

    fleet.order(principal(2, Role::Admin), None).unwrap();
    fleet.order(UserCommand::RemovePrincipal { key: admin }, None).unwrap();
    let gone = fleet.order(principal(3, Role::Viewer), None);
    assert_eq!(gone, Err(Rejection::UnknownKey { key: admin }), "who is removed can order nothing");
}

#[test]
fn a_repeated_order_has_the_first_answer_for_a_day_and_is_refused_after_that() {
    let mut fleet = Fleet::new(&["a"]);
    let set = |value: &str| {
        let set = [("k".parse().unwrap(), Desired { value: value.into(), required: false })].into();
        UserCommand::LabelNode { node: node("a"), set, unset: [].into() }
    };
    let value = |fleet: &Fleet| fleet.node("a").desired[&"k".parse().unwrap()].value.clone();
    let first = fleet.signed(set("first"), None);
    assert!(fleet.apply(&first).is_ok());
    assert!(fleet.order(set("second"), None).is_ok());
    let begun = fleet.time;
    // It is good for ten minutes. After them the answer is still known; after a day it is not, and the order is none any more.
    for (hours, known) in [(0, true), (1, true), (23, true), (25, false), (1000, false)] {
        fleet.time = begun.after(Span::from_secs(hours * 3600));
        let again = tribune_raft_store::command::Entry { time: fleet.time, body: first.body.clone() };
        let answer = fleet.apply(&again);
        assert_eq!(answer.is_ok(), known, "after {hours} h: {answer:?}");
        assert!(known || matches!(answer, Err(Rejection::Expired { .. })), "{answer:?}");
        assert_eq!(value(&fleet), "second", "after {hours} h");
    }
}

#[test]
fn a_class_that_is_removed_leaves_its_nodes_as_they_are() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let edge: ClassName = "edge".parse().unwrap();
    let unknown = fleet.order(UserCommand::RemoveClass { class: edge.clone() }, None);
    assert_eq!(unknown, Err(Rejection::UnknownClass { class: edge.clone() }));
    let set = UserCommand::SetClass { class: edge.clone(), add: nodes(&["a"]), remove: nodes(&[]) };
    fleet.order(set, None).unwrap();
    let before = fleet.node("a").clone();
    fleet.order(UserCommand::RemoveClass { class: edge }, None).unwrap();
    assert!(fleet.record.classes().is_empty());
    let after = fleet.record.nodes().get(&node("a")).unwrap().clone();
    assert!(after.class.is_none() && after.version > before.version, "a plan that read its class is made again");
    assert_eq!(Node { class: before.class.clone(), version: before.version, ..after }, before);
}

#[test]
fn somebody_who_may_publish_stands_for_a_package_in_the_place_of_who_may_not_any_more() {
    let mut fleet = Fleet::new(&["a"]);
    let (pat, key) = fleet.publisher("pat");
    let app = manifest("app", "1.0.0", json!({}), &[json!({ "name": "main" })]);
    fleet.publish_as(&pat, &app).unwrap();
    let published_by = |fleet: &Fleet| fleet.record.packages().get(&app.id()).unwrap().published_by;
    fleet.publish(&app);
    assert_eq!(published_by(&fleet), key, "pat may, so pat has published it");
    assert_eq!(fleet.record.authorise(&key), Ok(()));
    let less = UserCommand::SetPrincipal { key, name: PrincipalName::new("pat").unwrap(), role: Role::Viewer };
    fleet.order(less, None).unwrap();
    let may_not = fleet.record.authorise(&key);
    assert!(matches!(&may_not, Err(Rejection::Role { name, needs: Role::Publisher, .. }) if name == "pat"), "{may_not:?}");
    fleet.order(UserCommand::RemovePrincipal { key }, None).unwrap();
    assert_eq!(fleet.record.authorise(&key), Err(Rejection::UnknownKey { key }));
    assert_eq!(fleet.publish_as(&pat, &app), Err(Rejection::UnknownKey { key }));
    fleet.publish(&app);
    assert_eq!(fleet.record.authorise(&published_by(&fleet)), Ok(()));
}

#[test]
fn what_was_published_at_a_node_that_has_left_is_not_taken_for_revoked() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let token = Signature::of(b"token");
    let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: Some(node("a")) };
    let first = fleet.node("a").key;
    assert_eq!(fleet.record.authorise(&first), Ok(()));
    fleet.order(order, None).unwrap();
    let place = JoinAs::Replacement;
    fleet.tell(MasterCommand::Join { token, node: new_node_with("a", "another disk"), place }).unwrap();
    assert_ne!(fleet.node("a").key, first);
    assert_eq!(fleet.record.authorise(&first), Ok(()));
}
