use tribune_raft_store::model::{Author, Decision, DecisionTaken, NodeName, PublicKey, Timestamp};

use super::*;
use crate::sample::{update, vetoed, vetoing};

#[test]
fn only_what_changed_is_told() {
    let asking = update(Phase::Asking);
    let first = changes(None, &asking);
    assert_eq!(first, ["node n1: voted", "node n2: voted", "asking"]);
    assert_eq!(changes(Some(&asking), &asking), [""; 0]);

    let vetoed = vetoed().update;
    assert_eq!(
        changes(Some(&asking), &vetoed),
        ["node n2: billing/billingd (pid 412) vetoed: the day is being closed", "vetoed, waits for a decision"]
    );

    let mut forced = update(Phase::Distributing);
    let mut ballot = vetoing();
    ballot.overruled = true;
    forced.nodes.get_mut(&"n2".parse::<NodeName>().unwrap()).unwrap().ballots.push(ballot);
    forced.decisions.push(DecisionTaken {
        decision: Decision::Force { why: "checked\u{1b}[2J".into() },
        by: Author { key: PublicKey::new([3; 32]), name: "ada".into() },
        at: Timestamp(6_000),
        ballot_revision: 2,
        overruled: Vec::new(),
    });
    assert_eq!(
        changes(Some(&vetoed), &forced),
        ["node n2: billing/billingd (pid 412) was overruled", "ada decided: force, because checked [2J", "distributing"]
    );
}

#[test]
fn the_last_word_says_what_is_to_be_decided() {
    let text = conclusion(&vetoed());
    for expected in ["u7 is vetoed", "waits for your decision, since 1m 0s", "pid 412", "tribune update decide u7 --abort"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let mut ended = vetoed();
    ended.update = update(Phase::Ended { outcome: Outcome::Aborted });
    ended.update.reason = Some("ada cancelled it".into());
    assert_eq!(conclusion(&ended), "u7 aborted: ada cancelled it\n");
}

#[test]
fn only_a_node_that_changed_and_is_not_back_could_not_go_back() {
    let mut info = vetoed();
    info.update = update(Phase::Ended { outcome: Outcome::RegressFailed });
    for (name, (step, changed)) in [("n1", (Step::Failed, true)), ("n2", (Step::Failed, false))] {
        let node = info.update.nodes.get_mut(&name.parse::<NodeName>().unwrap()).unwrap();
        (node.step, node.changed, node.failure) = (step, changed, Some("the disk is full".into()));
    }
    assert_eq!(conclusion(&info), "u7 regress failed\n  - node n1 could not go back: the disk is full\n");
    let n1 = info.update.nodes.get_mut(&"n1".parse::<NodeName>().unwrap()).unwrap();
    n1.step = Step::Regressed;
    assert_eq!(conclusion(&info), "u7 regress failed\n");
}
