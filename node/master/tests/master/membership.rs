//! Who votes.

use std::collections::{BTreeMap, BTreeSet};

use tribune_master::{Learner, Liveness, MasterClock, MembershipStep, RaftState, membership};
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, node};
use crate::setup::all_there;

const READY: Learner = Learner { caught_up: true, complete: true };

/// A fleet, what Raft says, and who is there: steps are carried out as the real ones would be.
struct World {
    fleet: Fleet,
    raft: RaftState,
    liveness: Liveness,
    now: MasterClock,
    /// What a learner is like when it was added.
    learner: Learner,
}

impl World {
    fn new(names: &[&str]) -> Self {
        let fleet = Fleet::new(names);
        let raft = RaftState { voters: BTreeSet::from([0]), learners: BTreeMap::new(), master: node("a") };
        let liveness = all_there(&fleet);
        Self { fleet, raft, liveness, now: MasterClock(0), learner: READY }
    }

    fn next(&self) -> Option<MembershipStep> {
        membership(&self.fleet.record, &self.liveness, self.now, &self.raft)
    }

    /// Takes steps until there are none; they must come to an end, and never leave an even number of voters.
    fn settle(&mut self) {
        for _ in 0..50 {
            let Some(step) = self.next() else { return };
            if let Some(command) = step.command() {
                self.fleet.tell(command).unwrap();
            }
            match step {
                MembershipStep::AddLearner { raft_id, .. } => {
                    self.raft.learners.insert(raft_id, self.learner);
                }
                MembershipStep::SetVoters { voters } => {
                    assert!(voters.len() % 2 == 1, "{voters:?}");
                    self.raft.learners.retain(|id, _| !voters.contains(id));
                    self.raft.voters = voters;
                }
                MembershipStep::RemoveLearner { raft_id } => {
                    self.raft.learners.remove(&raft_id);
                }
                _ => {}
            }
        }
        panic!("it does not come to an end: {:?}", self.next());
    }

    fn with_role(&self, wanted: fn(&RaftRole) -> bool) -> Vec<String> {
        let nodes = self.fleet.record.nodes().values().filter(|node| wanted(&node.raft));
        nodes.map(|node| node.name.to_string()).collect()
    }

    fn voters(&self) -> Vec<String> {
        self.with_role(|role| matches!(role, RaftRole::Voter { .. }))
    }

    fn standbys(&self) -> Vec<String> {
        self.with_role(|role| matches!(role, RaftRole::Standby { .. }))
    }

    fn prefer(&mut self, name: &str, voter: VoterPreference) {
        let row = self.fleet.node(name).clone();
        let facts = Facts { voter, ..row.facts };
        let (current, kept) = (row.current, row.kept);
        self.fleet
            .tell(MasterCommand::NodeState { node: node(name), facts, current, ephemeral: None, kept, apart: None })
            .unwrap();
    }

    fn place(&mut self, name: &str, site: &str) {
        let set = BTreeMap::from([("site".parse().unwrap(), Desired { value: site.to_owned(), required: false })]);
        self.fleet.order(UserCommand::LabelNode { node: node(name), set, unset: BTreeSet::new() }, None).unwrap();
    }
}

#[test]
fn the_number_of_voters_is_odd_and_as_large_as_the_nodes_allow() {
    for (names, voters, standbys) in [
        (&["a"][..], 1, 0),
        (&["a", "b"], 1, 1),
        (&["a", "b", "c"], 3, 0),
        (&["a", "b", "c", "d"], 3, 1),
        (&["a", "b", "c", "d", "e"], 5, 0),
        (&["a", "b", "c", "d", "e", "f", "g", "h"], 5, 2),
    ] {
        let mut world = World::new(names);
        world.settle();
        assert_eq!((world.voters().len(), world.standbys().len()), (voters, standbys), "{names:?}");
    }
}

#[test]
fn a_standby_is_promoted_only_when_it_is_caught_up_and_holds_every_blob() {
    for (caught_up, complete) in [(false, true), (true, false)] {
        let mut world = World::new(&["a", "b", "c"]);
        world.learner = Learner { caught_up, complete };
        world.settle();
        assert_eq!((world.voters().len(), world.standbys().len()), (1, 2));
        world.raft.learners.values_mut().for_each(|learner| *learner = READY);
        world.settle();
        assert_eq!(world.voters().len(), 3);
    }
}

#[test]
fn a_voter_whose_store_is_damaged_leaves_raft_at_once_and_comes_back_under_a_new_id() {
    let mut world = World::new(&["a", "b", "c"]);
    world.settle();
    let broken = world.fleet.node("c").raft.raft_id().unwrap();
    assert!(world.liveness.say_broken(&node("c"), Some(broken)));
    assert!(!world.liveness.say_broken(&node("c"), Some(broken)), "that is known");
    let Some(MembershipStep::SetVoters { voters }) = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!(voters, &world.raft.voters - &BTreeSet::from([broken]));
    world.raft.voters = voters;
    world.settle();
    assert_eq!(world.voters(), ["a", "b", "c"]);
    let again = world.fleet.node("c").raft.raft_id().unwrap();
    assert!(again > broken, "{again} is not new");
}

#[test]
fn a_spare_standby_takes_the_place_of_a_voter_whose_store_is_damaged() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    let broken = world.fleet.node("b").raft.raft_id().unwrap();
    world.liveness.say_broken(&node("b"), Some(broken));
    world.settle();
    assert_eq!((world.voters(), world.standbys()), (vec!["a".into(), "c".into(), "d".into()], vec!["b".into()]));
}

#[test]
fn a_majority_of_damaged_stores_is_not_taken_out() {
    let mut world = World::new(&["a", "b", "c"]);
    world.settle();
    for name in ["b", "c"] {
        let broken = world.fleet.node(name).raft.raft_id();
        world.liveness.say_broken(&node(name), broken);
    }
    assert_eq!(world.next(), None);
}

#[test]
fn nodes_that_must_not_vote_do_not_and_those_preferred_do() {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    world.prefer("b", VoterPreference::Never);
    world.prefer("e", VoterPreference::Prefer);
    world.settle();
    assert_eq!(world.voters(), ["a", "c", "e"]);
    assert_eq!(world.standbys(), ["d"]);
    world.prefer("c", VoterPreference::Never);
    world.settle();
    assert_eq!(world.voters(), ["a", "d", "e"]);
}

#[test]
fn voters_are_spread_over_sites() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    for (name, site) in [("a", "north"), ("b", "north"), ("c", "south"), ("d", "west")] {
        world.place(name, site);
    }
    world.settle();
    assert_eq!(world.voters(), ["a", "c", "d"]);
    assert_eq!(world.standbys(), ["b"]);
}

#[test]
fn a_voter_is_replaced_after_ten_minutes_and_never_without_a_healthy_majority() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    assert_eq!((world.voters(), world.standbys()), (vec!["a".into(), "b".into(), "c".into()], vec!["d".to_owned()]));
    world.liveness.gone(&node("b"), world.now);
    world.now = MasterClock(599_999);
    assert_eq!(world.next(), None);
    world.now = MasterClock(600_000);
    world.liveness.gone(&node("c"), world.now);
    assert_eq!(world.next(), None, "only the master is there");
    world.liveness.heard(&node("c"), world.now, &BTreeSet::new());
    world.settle();
    assert_eq!(world.voters(), ["a", "c", "d"]);
    world.liveness.heard(&node("b"), world.now, &BTreeSet::new());
    world.settle();
    assert_eq!((world.voters(), world.standbys()), (vec!["a".into(), "c".into(), "d".into()], vec!["b".to_owned()]));
}

#[test]
fn a_voter_that_is_away_stays_one_if_there_is_no_other() {
    let mut world = World::new(&["a", "b", "c"]);
    world.settle();
    world.liveness.gone(&node("b"), world.now);
    world.now = MasterClock(10_000_000);
    assert_eq!(world.next(), None);
}

#[test]
fn a_standby_that_is_away_for_long_makes_room() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    world.liveness.gone(&node("d"), world.now);
    world.now = MasterClock(10_000_000);
    world.settle();
    assert_eq!(world.standbys(), [""; 0]);
    assert_eq!(world.raft.learners.len(), 0);
}

#[test]
fn what_a_former_master_left_half_done_is_finished() {
    let mut world = World::new(&["a", "b", "c"]);
    world.settle();
    let gone = world.fleet.node("c").raft.raft_id().unwrap();
    world.raft.voters.remove(&gone);
    assert_eq!(world.next(), Some(MembershipStep::MakeMember { node: node("c") }));
    world.raft.learners.insert(77, READY);
    world.settle();
    assert_eq!((world.voters().len(), world.raft.voters.len(), world.raft.learners.len()), (3, 3, 0));
    assert_ne!(world.fleet.node("c").raft.raft_id(), Some(gone), "no Raft id is used twice");
}

impl World {
    fn remove(&mut self, name: &str) {
        self.fleet.order(UserCommand::RemoveNode { node: node(name) }, None).unwrap();
    }

    fn knows(&self, name: &str) -> bool {
        self.fleet.record.nodes().contains(&node(name))
    }

    /// Takes one step, and gives it.
    fn step(&mut self) -> Option<MembershipStep> {
        let step = self.next()?;
        if let Some(command) = step.command() {
            self.fleet.tell(command).unwrap();
        }
        match &step {
            MembershipStep::AddLearner { raft_id, .. } => drop(self.raft.learners.insert(*raft_id, self.learner)),
            MembershipStep::SetVoters { voters } => {
                self.raft.learners.retain(|id, _| !voters.contains(id));
                self.raft.voters.clone_from(voters);
            }
            MembershipStep::RemoveLearner { raft_id } => drop(self.raft.learners.remove(raft_id)),
            _ => {}
        }
        Some(step)
    }
}

#[test]
fn a_voter_that_is_removed_is_replaced_first() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    world.remove("b");
    assert!(world.knows("b"));
    world.settle();
    assert!(!world.knows("b"));
    assert_eq!(world.voters(), ["a", "c", "d"]);
}

#[test]
fn without_a_node_in_its_place_a_removed_voter_leaves_fewer_voters() {
    let mut world = World::new(&["a", "b", "c"]);
    world.settle();
    world.remove("c");
    world.now = MasterClock(20_000);
    world.settle();
    assert!(!world.knows("c"));
    assert_eq!((world.voters(), world.standbys()), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn a_removed_voter_waits_for_a_healthy_majority() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    for name in ["b", "d"] {
        world.liveness.gone(&node(name), world.now);
    }
    world.liveness.gone(&node("c"), world.now);
    world.remove("c");
    world.now = MasterClock(20_000);
    assert_eq!(world.next(), None, "only one of three voters is there");
    world.liveness.heard(&node("b"), world.now, &BTreeSet::new());
    world.now = MasterClock(700_000);
    world.settle();
    assert!(!world.knows("c"), "a node that is away takes no place, so there are fewer voters");
}

#[test]
fn the_only_voter_is_removed_by_way_of_a_second() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    let (a, b) = (0, world.fleet.node("b").raft.raft_id().unwrap());
    world.remove("a");
    assert_eq!(world.step(), Some(MembershipStep::SetVoters { voters: BTreeSet::from([a, b]) }));
    assert_eq!(world.step(), Some(MembershipStep::MakeVoter { node: node("b") }));
    assert_eq!(world.next(), Some(MembershipStep::SetVoters { voters: BTreeSet::from([b]) }), "the master hands over");
    world.raft.master = node("b");
    world.settle();
    assert!(!world.knows("a"));
    assert_eq!(world.voters(), ["b"]);
}

#[test]
fn what_a_user_says_of_a_node_as_voter_wins_over_what_it_says_itself() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.prefer("d", VoterPreference::Never);
    let say = |voter| UserCommand::SetVoter { node: node("d"), voter };
    world.fleet.order(say(Some(VoterPreference::Prefer)), None).unwrap();
    world.settle();
    assert_eq!(world.voters(), ["a", "b", "d"]);
    world.fleet.order(say(None), None).unwrap();
    world.settle();
    assert_eq!(world.voters(), ["a", "b", "c"]);
}

#[test]
fn the_raft_seat_of_a_replaced_voter_is_taken_by_another() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.settle();
    let old = world.fleet.node("c").raft.raft_id().unwrap();
    world.liveness.gone(&node("c"), world.now);
    let token = Signature::of(b"again");
    let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: Some(node("c")) };
    world.fleet.order(order, None).unwrap();
    let new = crate::fleet::new_node_with("c", "c2");
    world.fleet.tell(MasterCommand::Join { token, node: new, place: Default::default() }).unwrap_err();
    let new = crate::fleet::new_node_with("c", "c2");
    let place = tribune_raft_store::command::JoinAs::Replacement;
    world.fleet.tell(MasterCommand::Join { token, node: new, place }).unwrap();
    world.settle();
    assert!(!world.raft.voters.contains(&old));
    assert_eq!(world.voters(), ["a", "b", "d"]);
}

#[test]
fn one_voter_becomes_three_in_one_change() {
    let mut world = World::new(&["a", "b", "c"]);
    let mut changes = Vec::new();
    while let Some(step) = world.step() {
        changes.extend(matches!(step, MembershipStep::SetVoters { .. }).then_some(step));
    }
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(world.voters().len(), 3);
}
