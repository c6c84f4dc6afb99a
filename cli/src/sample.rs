//! Answers made by hand, for tests: an update of two nodes in the middle of its life.

use tribune_messages::api::{NodeInfo, UpdateInfo};
use tribune_raft_store::model::*;
use tribune_raft_store::record::{Waiting, WaitingFor};

/// A package's id by a number.
pub fn package(number: u8) -> PackageId {
    PackageId::new([number; 32])
}

/// A process that vetoed.
pub fn vetoing() -> BallotCast {
    BallotCast {
        process: ProcessRef { name: "billing/billingd".into(), pid: 412, start_time: 99 },
        answer: Answer::Veto { reason: "the day is being closed".into() },
        lapsed: false,
        overruled: false,
    }
}

/// A node of an update.
pub fn progress(step: Step) -> NodeProgress {
    NodeProgress {
        step,
        since: Timestamp(5_000),
        round: 1,
        asked: Vec::new(),
        ballots: Vec::new(),
        changed: false,
        failure: None,
        before: 3,
        restarted: false,
        gone: false,
        left_behind: false,
    }
}

/// An update of `n1` and `n2` from billing 1.0.0 to 2.0.0.
pub fn update(phase: Phase) -> Update {
    let (n1, n2): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let change = PackageChange { name: "billing".parse().unwrap(), from: Some(package(1)), to: Some(package(2)) };
    let module = PlannedModule { package: package(2), index: 0, signature: Signature::new([7; 32]), size: 10 };
    let node = NodePlan { changes: vec![change], modules: [("billing/billingd".to_owned(), module)].into(), local: false };
    let plan = Plan {
        revision: 1,
        nodes: [(n1.clone(), node.clone()), (n2.clone(), node)].into(),
        waves: vec![vec![n1.clone()], vec![n2.clone()]],
        ..Plan::default()
    };
    Update {
        id: UpdateId(7),
        request_id: RequestId::new([0; 16]),
        request: UpdateRequest {
            kind: UpdateKind::Install,
            targets: Targets {
                nodes: [(n1.clone(), [package(2)].into()), (n2.clone(), [package(2)].into())].into(),
                ..Targets::default()
            },
            options: UpdateOptions::default(),
        },
        by: Author { key: PublicKey::new([3; 32]), name: "ada".into() },
        submitted: Timestamp(1_000),
        phase,
        since: Timestamp(5_000),
        plan: Some(plan),
        ballot_revision: 2,
        nodes: [(n1, progress(Step::Voted)), (n2, progress(Step::Voted))].into(),
        decisions: Vec::new(),
        reason: None,
        discrepancies: Vec::new(),
        way_back: Default::default(),
        paused_by: None,
    }
}

/// That update after a veto on `n2`, as a peer answers.
pub fn vetoed() -> UpdateInfo {
    let mut update = update(Phase::Vetoed);
    update.nodes.get_mut(&"n2".parse::<NodeName>().unwrap()).unwrap().ballots.push(vetoing());
    UpdateInfo {
        update,
        repaired: std::collections::BTreeSet::new(),
        waiting: Some(Waiting {
            waiting_for: WaitingFor::Decision {
                about: vec!["billing/billingd (pid 412) on node n2: the day is being closed".into()],
            },
            since: Timestamp(5_000),
            can: vec!["tribune update decide u7 --abort".into()],
        }),
        away: std::collections::BTreeMap::new(),
        away_after: Span::from_secs(600),
        packages: [
            (package(1), ("billing".parse().unwrap(), "1.0.0".to_owned())),
            (package(2), ("billing".parse().unwrap(), "2.0.0".to_owned())),
        ]
        .into(),
        index: 40,
        now: Timestamp(65_000),
    }
}

/// A node with these generations of billing, the last one current.
pub fn node(name: &str, versions: &[u8]) -> NodeInfo {
    let generation = |(place, version): (usize, &u8)| Generation {
        number: place as u64 + 1,
        replaced: (place > 0).then_some(place as u64),
        packages: [("billing".parse().unwrap(), package(*version))].into(),
        modules: std::collections::BTreeMap::new(),
    };
    let mut kept: Vec<Generation> = versions.iter().enumerate().map(generation).collect();
    let current = kept.pop().unwrap_or_default();
    NodeInfo {
        node: Node {
            name: name.parse().unwrap(),
            peer: PeerId::new("peer").unwrap(),
            key: PublicKey::new([4; 32]),
            class: None,
            desired: [("role".parse().unwrap(), Desired { value: "edge".into(), required: false })].into(),
            facts: Facts { platform: "linux/amd64".parse().unwrap(), version: "0.1.0".into(), ..Facts::default() },
            raft: RaftRole::Voter { raft_id: 0 },
            current,
            ephemeral: None,
            kept: kept.into_iter().map(|generation| (generation.number, generation)).collect(),
            should: std::collections::BTreeMap::new(),
            apart: None,
            converging: None,
            local_commands: Role::Admin,
            joined: Timestamp(500),
            voter: None,
            leaving: None,
            version: 1,
        },
        connected: true,
        master: true,
        packages: [("billing".parse().unwrap(), "2.0.0".to_owned())].into(),
        runs: [("billing".parse().unwrap(), "2.0.0".to_owned())].into(),
        should: [("billing".parse().unwrap(), "2.0.0".to_owned())].into(),
        drift: Vec::new(),
    }
}
