//! Stories of one round, on a clock that the test moves.
#![allow(clippy::unwrap_used)]

use tribune_process::protocol::{Proposal, Role};

use super::*;

const MINUTE: Moment = 60_000;
const MAX_DEFER: u64 = 10 * MINUTE;

fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start_time: 100 + u64::from(pid) }
}

fn ask(pid: u32, how: How, speech: Speech) -> Ask {
    let (name, role, silent) = (format!("p/{pid}"), Role::Replaced, Silent::Veto);
    Ask { process: id(pid), name, role, how, speech, within_ms: 5_000, silent, missing: None }
}

fn socket(pid: u32) -> Ask {
    ask(pid, How::Socket, Speech::SaidHello)
}

fn begin(asks: Vec<Ask>) -> (Poll, Vec<Action>) {
    let proposal = Proposal {
        update: "u".into(),
        revision: 3,
        packages: vec![],
        modules: vec![],
        left_out: 0,
        role: Role::Other,
        within_ms: 0,
    };
    Poll::begin(Question { proposal, began: 0, deferred_ms: 0, max_defer_ms: MAX_DEFER }, asks, 0)
}

fn says(pid: u32, said: Said) -> Event {
    Event::Answer { process: id(pid), revision: 3, said }
}

fn veto(reason: &str) -> Said {
    Said::Veto { reason: reason.into() }
}

fn defer(for_ms: u64) -> Said {
    Said::Defer { for_ms, reason: "a call is up".into() }
}

fn answer_of(poll: &Poll, pid: u32) -> Option<Answer> {
    poll.ballots().into_iter().find(|ballot| ballot.process == id(pid)).map(|ballot| ballot.answer)
}

fn said_veto(reason: &str) -> Option<Answer> {
    Some(Answer::Veto { kind: Objection::Said, reason: reason.into() })
}

fn proposed_to(actions: &[Action]) -> Vec<(u32, u64)> {
    let one = |action: &Action| match action {
        Action::Propose { process, proposal } => (process.pid, proposal.within_ms),
        Action::RunHook { process, .. } => (process.pid, 0),
    };
    actions.iter().map(one).collect()
}

#[test]
fn all_are_asked_and_the_round_is_over_when_the_last_has_answered() {
    let (mut poll, actions) = begin(vec![socket(1), ask(2, How::Hook, Speech::NeverSpoke), socket(1)]);
    assert_eq!(proposed_to(&actions), [(1, 5_000), (2, 0)], "a process named twice is asked once");
    assert!(matches!(&actions[0], Action::Propose { proposal, .. } if proposal.role == Role::Replaced));
    poll.handle(10, says(1, veto("3 calls are up"))).unwrap();
    assert!(!poll.is_over(), "a veto does not cut the others short");
    poll.handle(4_900, says(2, Said::Accept)).unwrap();
    assert!(poll.is_over());
    assert_eq!(poll.next_wake(), None);
    assert_eq!(answer_of(&poll, 1), said_veto("3 calls are up"));
    assert_eq!(poll.ballots()[1].at, 4_900);
    assert!(poll.ballots()[0].blocks() && !poll.ballots()[1].blocks());
}

#[test]
fn an_empty_round_is_over_at_once() {
    let (poll, actions) = begin(vec![]);
    assert!(poll.is_over() && actions.is_empty() && poll.ballots().is_empty());
}

#[test]
fn silence_is_a_veto_named_no_answer_or_consent_where_the_module_says_so() {
    let (mut poll, _) = begin(vec![socket(1), Ask { silent: Silent::Accept, ..socket(2) }]);
    assert_eq!(poll.next_wake(), Some(5_000));
    poll.handle(4_999, Event::Tick).unwrap();
    assert!(!poll.is_over());
    poll.handle(5_000, Event::Tick).unwrap();
    let no_answer = Answer::Veto { kind: Objection::NoAnswer, reason: "no answer within 5s".into() };
    assert_eq!(answer_of(&poll, 1), Some(no_answer));
    assert_eq!(answer_of(&poll, 2), Some(Answer::Accept(Consent::Silent)));
}

#[test]
fn who_does_not_speak_accepts_unless_it_must_and_is_asked_when_it_says_hello() {
    let (mut poll, actions) = begin(vec![
        ask(1, How::Auto, Speech::NeverSpoke),
        ask(2, How::Never, Speech::NeverSpoke),
        ask(3, How::Socket, Speech::NeverSpoke),
        ask(4, How::Never, Speech::SaidHello),
    ]);
    assert_eq!(proposed_to(&actions), [(4, 5_000)]);
    assert_eq!(answer_of(&poll, 1), Some(Answer::Accept(Consent::DoesNotSpeak)));
    assert_eq!(answer_of(&poll, 2), Some(Answer::Accept(Consent::NeverAsked)));
    let hello = poll.handle(4_000, Event::Hello(id(3))).unwrap();
    assert_eq!(proposed_to(&hello), [(3, 5_000)], "it has its whole time from when it could hear");
    assert_eq!(proposed_to(&poll.handle(4_100, Event::Hello(id(1))).unwrap()), [(1, 5_000)]);
    assert_eq!(answer_of(&poll, 1), None);
    poll.handle(4_200, says(1, veto("busy"))).unwrap();
    poll.handle(4_300, says(4, Said::Accept)).unwrap();
    poll.handle(9_000, Event::Tick).unwrap();
    assert!(poll.is_over());
    assert_eq!(proposed_to(&poll.handle(9_100, Event::Hello(id(2))).unwrap()), [], "the round is over");
}

#[test]
fn one_that_must_speak_and_never_says_hello_has_not_answered() {
    let (mut poll, _) = begin(vec![ask(3, How::Socket, Speech::NeverSpoke)]);
    poll.handle(5_000, Event::Tick).unwrap();
    let Some(Answer::Veto { kind: Objection::NoAnswer, reason }) = answer_of(&poll, 3) else { panic!("no veto") };
    assert_eq!(reason, "no answer: it did not say hello within 5s");
}

#[test]
fn a_process_that_reconnects_hears_the_proposal_again_with_the_time_that_is_left() {
    let (mut poll, _) = begin(vec![socket(1)]);
    assert_eq!(proposed_to(&poll.handle(2_000, Event::Hello(id(1))).unwrap()), [(1, 3_000)]);
    poll.handle(2_100, says(1, Said::Accept)).unwrap();
    assert_eq!(poll.handle(2_200, Event::Hello(id(1))).unwrap(), []);
}

#[test]
fn only_the_time_that_deferrals_took_counts_against_their_cap_and_it_outlives_the_agent() {
    let (mut poll, _) = begin(vec![socket(1), socket(2)]);
    assert_eq!(poll.held_up(3_000), 0);
    poll.handle(1_000, says(2, veto("busy"))).unwrap();
    poll.handle(2_000, says(1, defer(4 * MINUTE))).unwrap();
    assert_eq!(poll.held_up(MINUTE), MINUTE);
    // The agent dies and another reads the poll back.
    let mut poll: Poll = serde_json::from_str(&serde_json::to_string(&poll).unwrap()).unwrap();
    assert_eq!(poll.resume(2 * MINUTE), []);
    poll.handle(5 * MINUTE, Event::Tick).unwrap();
    poll.handle(5 * MINUTE + 9, says(1, Said::Accept)).unwrap();
    let day = 1_440 * MINUTE;
    assert_eq!(poll.held_up(day), 5 * MINUTE, "a user took a day to decide");

    // Asked again: what is left of the cap counts, and not the day.
    let question = Question { began: day - 5 * MINUTE, deferred_ms: 5 * MINUTE, ..poll.question().clone() };
    let (mut again, _) = Poll::begin(question, vec![socket(2)], day);
    assert_eq!(again.held_up(day + 1), 5 * MINUTE);
    again.handle(day + 1, says(2, defer(60 * MINUTE))).unwrap();
    assert_eq!(again.next_wake(), Some(day + 5 * MINUTE));
    again.handle(day + 5 * MINUTE, Event::Tick).unwrap();
    again.handle(day + 5 * MINUTE + 1, says(2, defer(1))).unwrap();
    assert!(matches!(answer_of(&again, 2), Some(Answer::Veto { kind: Objection::DeferredTooLong, .. })));
}

#[test]
fn a_deferral_is_asked_again_and_capped_for_the_update_as_a_whole() {
    let (mut poll, _) = begin(vec![socket(1)]);
    poll.handle(1_000, says(1, defer(MINUTE))).unwrap();
    assert_eq!(poll.next_wake(), Some(61_000));
    assert_eq!(poll.waiting(), [("p/1".to_owned(), "more time: a call is up".to_owned())]);
    assert_eq!(proposed_to(&poll.handle(61_000, Event::Tick).unwrap()), [(1, 5_000)]);
    // An hour is more than the update may wait: asked once more when that has passed, and then it counts.
    poll.handle(62_000, says(1, defer(60 * MINUTE))).unwrap();
    assert_eq!(poll.next_wake(), Some(MAX_DEFER));
    assert_eq!(proposed_to(&poll.handle(MAX_DEFER, Event::Tick).unwrap()), [(1, 5_000)]);
    poll.handle(MAX_DEFER + 1, says(1, defer(1))).unwrap();
    let Some(Answer::Veto { kind: Objection::DeferredTooLong, reason }) = answer_of(&poll, 1) else { panic!("no veto") };
    assert_eq!(reason, "deferred for longer than the update may wait (10m); last reason: a call is up");
}

#[test]
fn a_deferral_of_no_time_does_not_become_a_busy_loop() {
    let (mut poll, _) = begin(vec![socket(1)]);
    poll.handle(0, says(1, defer(0))).unwrap();
    assert_eq!(poll.next_wake(), Some(SHORTEST_DEFERRAL));
    poll.handle(10, says(1, Said::Accept)).unwrap();
    assert_eq!(answer_of(&poll, 1), Some(Answer::Accept(Consent::Said)), "it may answer before it is asked again");
    poll.handle(10, says(1, defer(u64::MAX))).unwrap_err();
}

#[test]
fn one_that_ends_abstains_and_what_it_had_given_lapses() {
    let (mut poll, _) = begin(vec![socket(1), socket(2), socket(3), socket(4)]);
    poll.handle(1, Event::Gone(id(1))).unwrap();
    poll.handle(2, says(2, veto("busy"))).unwrap();
    poll.handle(3, Event::Gone(id(2))).unwrap();
    poll.handle(4, says(3, defer(MINUTE))).unwrap();
    poll.handle(5, Event::Gone(id(3))).unwrap();
    poll.handle(6, Event::Gone(ProcessId { start_time: 9, ..id(4) })).unwrap();
    assert!(!poll.is_over(), "another process of the same pid is another process");
    poll.handle(7, says(4, Said::Accept)).unwrap();
    poll.handle(8, Event::Gone(id(4))).unwrap();
    let ballots = poll.ballots();
    assert_eq!(ballots[0].answer, Answer::Abstain);
    assert_eq!(ballots[1].lapsed, Some(3));
    assert_eq!(ballots[2].answer, Answer::Abstain);
    assert_eq!(ballots[3].answer, Answer::Accept(Consent::Said));
    assert!(ballots.iter().all(|ballot| !ballot.blocks()));
}

#[test]
fn answering_twice_changes_nothing_and_taking_a_veto_back_is_refused() {
    let (mut poll, _) = begin(vec![socket(1), socket(2), socket(3)]);
    poll.handle(1, says(1, veto("busy"))).unwrap();
    poll.handle(2, says(1, veto(" busy "))).unwrap();
    let taken_back = poll.handle(3, says(1, Said::Accept));
    assert_eq!(taken_back, Err(Refusal::AlreadyAnswered { update: "u".into(), answer: "veto" }));
    assert_eq!(answer_of(&poll, 1), said_veto("busy"));
    assert_eq!(poll.ballots()[0].at, 1);
    poll.handle(4, says(2, Said::Accept)).unwrap();
    poll.handle(5, says(2, Said::Accept)).unwrap();
    poll.handle(6, says(2, defer(1))).unwrap_err();
}

#[test]
fn a_late_veto_counts_and_other_late_answers_do_not() {
    let (mut poll, _) = begin(vec![socket(1), socket(2), socket(3)]);
    poll.handle(1, says(1, Said::Accept)).unwrap();
    poll.handle(5_000, Event::Tick).unwrap();
    assert!(poll.is_over());
    assert_eq!(poll.handle(5_001, says(2, Said::Accept)), Err(Refusal::TooLate { update: "u".into() }));
    poll.handle(5_002, says(3, veto("now I can say why"))).unwrap();
    assert_eq!(answer_of(&poll, 3), said_veto("now I can say why"));
    poll.handle(9_000, says(1, veto("a call came in"))).unwrap();
    assert_eq!(answer_of(&poll, 1), said_veto("a call came in"));
    assert!(poll.is_over());
}

#[test]
fn a_slow_answer_beats_silence_while_others_are_waited_for() {
    let (mut poll, _) = begin(vec![socket(1), Ask { within_ms: 60_000, ..socket(2) }]);
    poll.handle(5_000, Event::Tick).unwrap();
    assert!(matches!(answer_of(&poll, 1), Some(Answer::Veto { kind: Objection::NoAnswer, .. })));
    poll.handle(6_000, says(1, Said::Accept)).unwrap();
    assert_eq!(answer_of(&poll, 1), Some(Answer::Accept(Consent::Said)));
}

#[test]
fn answers_of_strangers_and_to_other_revisions_are_refused() {
    let (mut poll, _) = begin(vec![socket(1)]);
    assert_eq!(poll.handle(1, says(9, veto("me too"))), Err(Refusal::NotAsked { update: "u".into() }));
    let old = Event::Answer { process: id(1), revision: 2, said: Said::Accept };
    assert_eq!(poll.handle(1, old), Err(Refusal::OtherRevision { update: "u".into(), asked: 3, answered: 2 }));
    assert_eq!(poll.handle(1, Event::Gone(id(9))), Ok(vec![]));
    assert!(!poll.is_over());
}

#[test]
fn a_veto_without_words_is_a_veto() {
    let (mut poll, _) = begin(vec![socket(1)]);
    poll.handle(1, says(1, veto(" \u{7} "))).unwrap();
    assert_eq!(answer_of(&poll, 1), said_veto("(gave no reason)"));
}

#[test]
fn a_new_agent_goes_on_with_what_it_reads_and_gives_the_silent_their_time_anew() {
    let (mut poll, _) = begin(vec![
        socket(1),
        socket(2),
        ask(3, How::Hook, Speech::NeverSpoke),
        ask(4, How::Socket, Speech::NeverSpoke),
        socket(5),
    ]);
    poll.handle(1, says(1, veto("busy"))).unwrap();
    poll.handle(2, says(5, defer(MINUTE))).unwrap();
    let mut read: Poll = serde_json::from_str(&serde_json::to_string(&poll).unwrap()).unwrap();
    assert_eq!(read, poll);
    let actions = read.resume(30_000);
    assert_eq!(proposed_to(&actions), [(2, 5_000), (3, 0)]);
    assert_eq!(read.next_wake(), Some(35_000));
    assert_eq!(answer_of(&read, 1), said_veto("busy"));
    assert_eq!(proposed_to(&read.handle(60_002, Event::Tick).unwrap()), [(5, 5_000)]);
}

mod whatever_happens {
    use super::*;
    use proptest::prelude::*;

    fn any_ask() -> impl Strategy<Value = Ask> {
        let how = prop_oneof![Just(How::Auto), Just(How::Socket), Just(How::Hook), Just(How::Never)];
        let speech = prop_oneof![Just(Speech::SaidHello), Just(Speech::NeverSpoke)];
        let silent = prop_oneof![Just(Silent::Veto), Just(Silent::Accept)];
        (0..4u32, how, speech, silent, 0..20_000u64).prop_map(|(pid, how, speech, silent, within_ms)| Ask {
            silent,
            within_ms,
            ..ask(pid, how, speech)
        })
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let said =
            prop_oneof![Just(Said::Accept), Just(veto("no")), any::<u64>().prop_map(defer), (0..90_000u64).prop_map(defer)];
        prop_oneof![
            (0..5u32).prop_map(|pid| Event::Hello(id(pid))),
            (0..5u32, 2..4u64, said).prop_map(|(pid, revision, said)| Event::Answer { process: id(pid), revision, said }),
            (0..5u32).prop_map(|pid| Event::Gone(id(pid))),
            Just(Event::Tick),
        ]
    }

    proptest! {
        #[test]
        fn every_round_ends_by_the_clock_alone_and_a_spoken_veto_is_never_lost(
            asks in prop::collection::vec(any_ask(), 0..5),
            events in prop::collection::vec((any_event(), 0..30_000u64), 0..60),
        ) {
            let (mut poll, _) = begin(asks);
            let mut now = 0;
            let mut vetoed = std::collections::BTreeSet::new();
            for (event, pause) in events {
                now += pause;
                let spoken = match &event {
                    Event::Answer { process, said: Said::Veto { .. }, .. } => Some(*process),
                    _ => None,
                };
                if poll.handle(now, event).is_ok() {
                    vetoed.extend(spoken);
                }
                let ballots = poll.ballots();
                for process in &vetoed {
                    let ballot = ballots.iter().find(|ballot| ballot.process == *process);
                    prop_assert!(ballot.is_some_and(|b| matches!(b.answer, Answer::Veto { .. })), "{process} vetoed");
                }
            }
            // Nobody says another word: time alone must end it, in a bounded number of steps.
            for _ in 0..100 {
                let Some(wake) = poll.next_wake() else { break };
                now = now.max(wake);
                let _ = poll.handle(now, Event::Tick);
            }
            prop_assert!(poll.is_over());
            prop_assert_eq!(poll.ballots().len(), poll.processes().count());
        }
    }
}
