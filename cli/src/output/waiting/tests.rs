//! One example of each state in which an update waits: what `update show` answers.

use std::collections::BTreeSet;

use tribune_raft_store::model::*;
use tribune_raft_store::record::{Record, Waiting};

use super::*;
use crate::json::UpdateView;
use crate::sample;

/// An example: what it is, the update, what the text says in this order, and what the document says it waits for.
struct Example {
    state: &'static str,
    info: UpdateInfo,
    says: &'static [&'static str],
    waits_for: &'static str,
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// An update in this phase, with its two nodes so far.
fn at(phase: Phase, n1: Step, n2: Step) -> Update {
    let mut update = sample::update(phase);
    for (name, step) in [("n1", n1), ("n2", n2)] {
        let changed = matches!(step, Step::Go | Step::Started | Step::Settled | Step::Persisted);
        update.nodes.insert(node(name), NodeProgress { changed, ..sample::progress(step) });
    }
    update
}

/// What a peer answers about it, a minute after it came to its phase.
fn info(update: Update) -> UpdateInfo {
    UpdateInfo { waiting: Record::default().waiting(&update), update, ..sample::vetoed() }
}

fn example(state: &'static str, update: Update, waits_for: &'static str, says: &'static [&'static str]) -> Example {
    Example { state, info: info(update), says, waits_for }
}

fn with_veto(mut update: Update, lapsed: bool) -> Update {
    if let Some(node) = update.nodes.get_mut(&node("n2")) {
        node.ballots.push(BallotCast { lapsed, ..sample::vetoing() });
    }
    update
}

fn queued() -> Vec<Example> {
    let mut behind = info(at(Phase::Queued { behind: vec![UpdateId(3)] }, Step::Planned, Step::Planned));
    behind.waiting = Some(Waiting {
        waiting_for: WaitingFor::Updates { updates: vec![UpdateId(3)] },
        since: Timestamp(5_000),
        can: vec!["tribune update show u3".into(), "tribune update cancel u7".into()],
    });
    let says: &[&str] = &["updates before it: u3, since 1m 0s", "tribune update show u3", "tribune update cancel u7"];
    let its_turn = at(Phase::Queued { behind: Vec::new() }, Step::Planned, Step::Planned);
    let planned = at(Phase::Planned, Step::Planned, Step::Planned);
    let master: &[&str] = &["waits for the master to plan it and tell the nodes, since 1m 0s", "tribune update cancel u7"];
    vec![
        Example { state: "queued behind others", info: behind, says, waits_for: "updates" },
        example("queued, and its turn has come", its_turn, "master", master),
        example("planned", planned, "master", master),
    ]
}

fn asking() -> Vec<Example> {
    let mut asked = at(Phase::Asking, Step::Asked, Step::Voted);
    if let Some(n1) = asked.nodes.get_mut(&node("n1")) {
        n1.asked = vec![ProcessRef { name: "shop/web".into(), pid: 9, start_time: 1 }];
    }
    let says: &[&str] =
        &["answers of processes on n1, since 1m 0s", "shop/web (pid 9) on node n1 was asked", "tribune update cancel u7"];
    let decide: &[&str] = &[
        "your decision, since 1m 0s",
        "billing/billingd (pid 412) on node n2: the day is being closed",
        "undecided, it is aborted 7d 0h after that",
        "decide u7 --force --seen 2 --why TEXT",
        "decide u7 --ask-again",
        "decide u7 --abort",
    ];
    let gone: &[&str] = &[
        "your decision, since 1m 0s",
        "billing/billingd (pid 412) on node n2 vetoed and is gone since: the day is being closed",
        "decide u7 --ask-again",
        "decide u7 --abort",
    ];
    let vetoed = || at(Phase::Vetoed, Step::Voted, Step::Voted);
    vec![
        example("asking", asked, "answers", says),
        example("vetoed", with_veto(vetoed(), false), "decision", decide),
        example("vetoed by who is gone", with_veto(vetoed(), true), "decision", gone),
    ]
}

fn changing_over() -> Vec<Example> {
    let distributing = at(Phase::Distributing, Step::Staged, Step::Voted);
    let wave = |step| at(Phase::Wave { wave: 1 }, Step::Settled, step);
    let paused = at(Phase::Paused { wave: 0, by: "ada".into() }, Step::Started, Step::Staged);
    let mut failed = at(Phase::Held { wave: 1 }, Step::Settled, Step::Failed);
    if let Some(n2) = failed.nodes.get_mut(&node("n2")) {
        n2.failure = Some("it is not healthy".into());
    }
    let mut away = info(at(Phase::Distributing, Step::Staged, Step::Voted));
    away.away.insert(node("n2"), Span::from_secs(125));
    let missing: &[&str] = &["staged on n2", "node n2 is away, since 2m 5s; 10m 0s after it went", "update cancel u7"];
    let held: &[&str] = &["your decision", "node n2: it is not healthy", "undecided, it goes back 7d", "--force", "--abort"];
    let left: &[&str] = &[
        "somebody to resume it; left: n2; on its way: n1 (the new modules run; their health has to hold), since 1m 0s",
        "undecided, it goes back 7d 0h after that",
        "tribune update resume u7",
        "tribune update cancel u7",
    ];
    vec![
        example("distributing", distributing, "staging", &["modules to be fetched and staged on n2, since 1m 0s", "cancel u7"]),
        Example { state: "a node is away", info: away, says: missing, waits_for: "staging" },
        example("staged, told to get ready", wave(Step::Staged), "changeover", &["n2 (is about to", "update pause u7", "cancel"]),
        example(
            "coming to a safe point",
            wave(Step::Pending),
            "changeover",
            &["n2 (its processes come to a safe point)", "cancel"],
        ),
        example("ready, with its lease", wave(Step::Ready), "changeover", &["n2 (ready, waits for the others", "cancel u7"]),
        example("starting", wave(Step::Go), "changeover", &["n2 (starts the new modules)", "cancel u7"]),
        example("settling", wave(Step::Started), "changeover", &["n2 (the new modules run", "cancel u7"]),
        example("paused", paused, "resume", left),
        example("held by a failure", failed, "decision", held),
        example(
            "held by a late veto",
            with_veto(at(Phase::Held { wave: 1 }, Step::Settled, Step::Staged), false),
            "decision",
            &["your decision", "the day is being closed", "undecided, it goes back 7d", "--force"],
        ),
    ]
}

fn after() -> Vec<Example> {
    let settled = |phase| at(phase, Step::Settled, Step::Settled);
    let persist: &[&str] =
        &["somebody to persist what runs on n1, n2, or to take it back, since", "update persist u7", "cancel u7"];
    let back: &[&str] = &["nodes to go back by themselves: n1, since 1m 0s", "tribune update watch u7"];
    vec![
        example("verifying", settled(Phase::Verifying), "check", &["the master's check of what is installed", "cancel u7"]),
        example("unpersisted", settled(Phase::Unpersisted), "persist", persist),
        example(
            "persisting",
            at(Phase::Persisting, Step::Persisted, Step::Settled),
            "installing",
            &["be installed on n2", "cancel"],
        ),
        example("regressing", at(Phase::Regressing, Step::Started, Step::Staged), "regress", back),
    ]
}

#[test]
fn in_every_state_it_is_said_what_is_waited_for_since_when_and_what_can_be_done() {
    let examples: Vec<Example> = [queued(), asking(), changing_over(), after()].into_iter().flatten().collect();
    for Example { state, info, says, waits_for } in &examples {
        let told = text(info);
        let mut rest = told.as_str();
        for expected in *says {
            let place = rest.find(expected).unwrap_or_else(|| panic!("{state}: {expected:?} is not said, or not there:\n{told}"));
            rest = &rest[place..];
        }
        assert!(
            told.starts_with("\nwaits for ") && told.contains(", since 1m 0s\n") && told.contains("\nyou can\n"),
            "{state}:\n{told}"
        );
        let document = serde_json::to_value(UpdateView::of(info)).unwrap();
        let waiting = &document["waiting"];
        assert_eq!((&waiting["waiting_for"], &waiting["since_at"]), (&(*waits_for).into(), &5000.into()), "{state}");
        assert!(waiting["can"].as_array().is_some_and(|can| !can.is_empty()), "{state}: {waiting}");
    }
    let seen: BTreeSet<String> = examples.iter().map(|example| name(&example.info.update.phase)).collect();
    assert_eq!(seen.len(), PHASES, "every phase but the last has an example: {seen:?}");
    let documented = include_str!("../../../../docs/JSON.md");
    let row = documented.lines().find(|line| line.starts_with("| `waiting_for` |")).unwrap();
    for Example { waits_for, .. } in &examples {
        assert!(row.contains(&format!("`{waits_for}`")), "{waits_for} is not in docs/JSON.md");
    }
}

/// The phases in which an update waits.
const PHASES: usize = 12;

/// A phase's name. A new one does not compile: give it an example, and count it.
fn name(phase: &Phase) -> String {
    match phase {
        Phase::Queued { .. }
        | Phase::Planned
        | Phase::Asking
        | Phase::Vetoed
        | Phase::Distributing
        | Phase::Held { .. }
        | Phase::Paused { .. }
        | Phase::Verifying
        | Phase::Unpersisted
        | Phase::Persisting
        | Phase::Regressing => phase.to_string(),
        Phase::Wave { .. } => "wave".into(),
        Phase::Ended { .. } => panic!("an ended update waits for nothing"),
    }
}

#[test]
fn the_document_names_who_is_asked_and_who_is_away() {
    let mut example = asking().remove(0).info;
    example.away.insert(node("n2"), Span::from_secs(3));
    let waiting = &serde_json::to_value(UpdateView::of(&example)).unwrap()["waiting"];
    assert_eq!(waiting["processes"], serde_json::json!([{ "node": "n1", "process": "shop/web", "pid": 9 }]));
    assert_eq!(waiting["away"], serde_json::json!([{ "node": "n2", "for_ms": 3000, "counts_after_ms": 600_000 }]));
}

#[test]
fn an_ended_update_waits_for_nothing() {
    let ended = info(at(Phase::Ended { outcome: Outcome::Completed }, Step::Settled, Step::Settled));
    assert_eq!(text(&ended), "");
}
