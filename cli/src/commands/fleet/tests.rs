use super::*;
use crate::sample::node;

fn names<T: std::str::FromStr<Err: std::fmt::Debug>>(names: &[&str]) -> Vec<T> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn a_node_that_was_in_another_class_is_said_to_move_and_only_a_member_is_removed() {
    let mut nodes = vec![node("n1", &[1]), node("n2", &[1]), node("n3", &[1])];
    nodes[0].node.class = Some("edge".parse().unwrap());
    nodes[1].node.class = Some("core".parse().unwrap());
    let set = |add: &[&str], remove: &[&str]| changes(&"edge".parse().unwrap(), &names(add), &names(remove), &nodes);

    assert_eq!(set(&["n2", "n3"], &["n1"]), Ok("class edge: added n3; n2 moved from core; removed n1".into()));
    assert_eq!(set(&[], &[]), Ok("class edge is there".into()));
    assert_eq!(set(&[], &["n2"]), Err(Problem::new("node n2 is not in class edge", "in it are: n1")));
}

#[test]
fn a_label_is_named_once_and_only_one_that_was_set_is_taken_away() {
    let set = |labels: &[(&str, &str)]| -> Vec<(CharacteristicKey, String)> {
        labels.iter().map(|(key, value)| (key.parse().unwrap(), (*value).to_owned())).collect()
    };
    assert_eq!(once_each(&set(&[("role", "edge"), ("site", "oslo")]), &names(&["zone"])), Ok(()));
    for wrong in [once_each(&set(&[("role", "edge")]), &names(&["role"])), once_each(&set(&[("role", "a"), ("role", "b")]), &[])]
    {
        assert_eq!(wrong.unwrap_err().exit, Exit::Usage);
    }

    let node = node("n1", &[1]).node;
    assert_eq!(has_labels(&node, &names(&["role"])), Ok(()));
    assert_eq!(has_labels(&node, &names(&["nope"])), Err(Problem::new("node n1 has no label nope", "its labels are: role")));
}
