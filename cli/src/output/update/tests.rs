use tribune_raft_store::model::Step;

use super::*;
use crate::sample;

#[test]
fn a_failed_node_that_the_others_went_on_without_is_told_of_as_such() {
    let mut info = sample::vetoed();
    info.update = sample::update(Phase::Unpersisted);
    let n2 = info.update.nodes.get_mut(&"n2".parse::<NodeName>().unwrap()).unwrap();
    (n2.step, n2.failure) = (Step::Away, Some("node n2 has been away for too long".into()));
    let line = |info: &UpdateInfo| show(info).lines().find(|line| line.starts_with("failed on n2")).unwrap().to_owned();
    assert_eq!(line(&info), "failed on n2: node n2 has been away for too long");
    info.update.nodes.get_mut(&"n2".parse::<NodeName>().unwrap()).unwrap().left_behind = true;
    assert_eq!(line(&info), "failed on n2: node n2 has been away for too long; the others went on without it");
}
