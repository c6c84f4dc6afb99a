//! A process of a simulated machine: what brings its script on.
//!
//! One idea: where a process is lies in its machine; this task only waits and speaks. It ends with the agent's host, and the next agent's
//! host begins another.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;
use tribune_agent::processes::ProcessId;
use tribune_agent::processes::system::Caller;
use tribune_keeper::{ChildId, Exit};
use tribune_process::protocol::{HealthStatus, NodeMessage, PROTOCOL, ProcessMessage, encode};

use super::script::{Health, Hello, Ready, Script, Vote};
use super::{Machine, Phase, now};

/// How long after it lost the agent a process looks for it again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one that is slow takes.
const SLOW: Duration = Duration::from_millis(1_500);
/// How long a deferral is.
const DEFERRED: Duration = Duration::from_millis(700);
/// How long one that is late takes to come to its safe point.
const LATE: Duration = Duration::from_millis(1_200);
/// How long one that is not well says nothing of it.
const WELL_FOR: Duration = Duration::from_millis(400);
/// After how long one that faints does.
const FAINTS_AFTER: Duration = Duration::from_secs(10);
/// Bytes of a connection to the process socket.
const PIPE: usize = 64 * 1024;

/// Brings a child on until it is no more, or its process is stopped for good.
pub(super) async fn live(machine: Machine, id: ChildId) {
    let Some(mut changed) = machine.lock().kids.get(&id).map(|kid| kid.changed.subscribe()) else { return };
    loop {
        let kid = machine.lock().kids.get(&id).map(|kid| (kid.phase.clone(), kid.script.clone(), kid.killed));
        let Some((phase, script, killed)) = kid else { return };
        match phase {
            Phase::Running { process, .. } if killed => machine.ended(&id, process, Exit::Signal(9)),
            Phase::Running { process, since } => {
                tokio::select! {
                    // What becomes of the child then is for the keeper's rules to say.
                    exit = run(&machine, &id, process, since, &script) => machine.ended(&id, process, exit),
                    _ = changed.changed() => {}
                }
            }
            Phase::Stopping { process, kill_at, .. } => {
                let takes = script.stop.min(kill_at.saturating_sub(now()));
                sleep(takes).await;
                machine.ended(&id, process, Exit::Signal(15));
                return;
            }
            Phase::Waiting { at, .. } => {
                tokio::select! {
                    () = sleep(at.saturating_sub(now())) => {
                        machine.launch(&id);
                        return;
                    }
                    _ = changed.changed() => {}
                }
            }
            Phase::Stopped { .. } | Phase::Broken { .. } => return,
        }
    }
}

/// Runs until the process ends by itself.
async fn run(machine: &Machine, id: &ChildId, process: ProcessId, since: Duration, script: &Script) -> Exit {
    let fell_before = machine.lock().kids.get(id).is_some_and(|kid| kid.count > 0);
    let script = &Script { vote: script.vote.after(fell_before), ..script.clone() };
    let lives = match script.health {
        Health::Well | Health::Unhealthy => None,
        Health::Faints => (!fell_before).then_some(FAINTS_AFTER),
        Health::CrashLoop => Some(Duration::from_millis(100)),
        Health::Frail => Some(Duration::from_millis(u64::from(process.pid) * 7919 % 60_000 + 5_000)),
    };
    let ends = async {
        match lives {
            Some(lives) => sleep((since + lives).saturating_sub(now())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ends => Exit::Code(1),
        exit = talk(machine, process, since, script) => exit,
    }
}

async fn talk(machine: &Machine, process: ProcessId, since: Duration, script: &Script) -> Exit {
    if !script.speaks {
        std::future::pending::<()>().await;
    }
    let silent = match script.hello {
        Hello::AtOnce => Duration::ZERO,
        Hello::Late => Duration::from_millis(u64::from(process.pid) * 7919 % 3_000),
        Hello::After(after) => after,
    };
    sleep((since + silent).saturating_sub(now())).await;
    let mut deferred = false;
    loop {
        let desk = machine.lock().desk.clone();
        if let Some(desk) = desk {
            let (near, far) = tokio::io::duplex(PIPE);
            let caller = Caller { stream: Box::new(far), uid: 0, pid: Some(process.pid) };
            if desk.send(caller).await.is_ok()
                && let Talked::Crashed = converse(machine, process, since, script, near, &mut deferred).await
            {
                return Exit::Signal(11);
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

enum Talked {
    /// The connection was lost.
    Lost,
    /// The process crashed.
    Crashed,
}

async fn converse(
    machine: &Machine,
    process: ProcessId,
    since: Duration,
    script: &Script,
    stream: tokio::io::DuplexStream,
    deferred: &mut bool,
) -> Talked {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    let hello = ProcessMessage::Hello { protocol: PROTOCOL, name: None, version: None };
    if say(&mut write, &hello).await.is_err() {
        return Talked::Lost;
    }
    machine.lock().hellos.insert(process, now());
    let mut complains = script.health == Health::Unhealthy;
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            () = sleep((since + WELL_FOR).saturating_sub(now())), if complains => {
                complains = false;
                let complaint =
                    ProcessMessage::Health { status: HealthStatus::Unhealthy, detail: Some("not well".into()) };
                if say(&mut write, &complaint).await.is_err() {
                    return Talked::Lost;
                }
                continue;
            }
        };
        let Ok(Some(line)) = line else { return Talked::Lost };
        let Ok(message) = serde_json::from_str::<NodeMessage>(&line) else { continue };
        machine.heard(process, &message);
        let answer = match answer(machine, process, script, message, deferred).await {
            Answer::Say(message) => message,
            Answer::Nothing => continue,
            Answer::Crash => return Talked::Crashed,
        };
        if say(&mut write, &answer).await.is_err() {
            return Talked::Lost;
        }
    }
}

enum Answer {
    Say(ProcessMessage),
    Nothing,
    Crash,
}

async fn answer(machine: &Machine, process: ProcessId, script: &Script, message: NodeMessage, deferred: &mut bool) -> Answer {
    match message {
        NodeMessage::Proposal(proposal) => {
            let (update, revision) = (proposal.update, proposal.revision);
            let answer = vote(script, *deferred, &update, revision).await;
            if let Answer::Say(said) = &answer {
                let mut inner = machine.lock();
                let told = inner.told.entry((process, update)).or_default();
                match said {
                    ProcessMessage::Accept { revision, .. } => {
                        told.accepted = Some(*revision);
                        told.vetoed_at = None;
                    }
                    ProcessMessage::Veto { revision, .. } => {
                        told.vetoed = Some(*revision);
                        told.vetoed_at = Some(now());
                    }
                    ProcessMessage::Defer { .. } => *deferred = true,
                    _ => {}
                }
            }
            answer
        }
        NodeMessage::ChangeoverPending(pending) => {
            if script.vote == Vote::LateVeto {
                let reason = "a call came in".to_owned();
                machine.lock().told.entry((process, pending.update.clone())).or_default().vetoed_at = Some(now());
                return Answer::Say(ProcessMessage::Veto { update: pending.update, revision: 1, reason });
            }
            match script.ready {
                Ready::AtOnce => {}
                Ready::Late => sleep(LATE).await,
                Ready::Never => return Answer::Nothing,
            }
            Answer::Say(ProcessMessage::Ready { update: pending.update, attempt: Some(pending.attempt) })
        }
        NodeMessage::HandOver(hand_over) => Answer::Say(ProcessMessage::HandedOver {
            update: hand_over.update,
            attempt: Some(hand_over.attempt),
            state: Some("state".into()),
        }),
        NodeMessage::Outcome(outcome) => Answer::Say(ProcessMessage::Seen { update: outcome.update }),
        _ => Answer::Nothing,
    }
}

async fn vote(script: &Script, deferred: bool, update: &str, revision: u64) -> Answer {
    let vote = match script.vote {
        Vote::Moody => match rand::random_range(0..20) {
            0..12 => Vote::Accept,
            12..14 => Vote::Veto,
            14..16 => Vote::Defer,
            16..18 => Vote::Slow,
            18 => Vote::Crash,
            _ => Vote::Silent,
        },
        vote => vote,
    };
    let update = update.to_owned();
    match vote {
        Vote::Veto => Answer::Say(ProcessMessage::Veto { update, revision, reason: "three calls are up".into() }),
        Vote::Defer if !deferred => {
            let for_ms = u64::try_from(DEFERRED.as_millis()).unwrap_or(u64::MAX);
            Answer::Say(ProcessMessage::Defer { update, revision, for_ms, reason: "one call is up".into() })
        }
        Vote::Silent => Answer::Nothing,
        Vote::Crash => Answer::Crash,
        Vote::Slow => {
            sleep(SLOW).await;
            Answer::Say(ProcessMessage::Accept { update, revision })
        }
        Vote::Accept | Vote::Defer | Vote::LateVeto | Vote::Wary | Vote::Moody => {
            Answer::Say(ProcessMessage::Accept { update, revision })
        }
    }
}

async fn say(write: &mut (impl AsyncWriteExt + Unpin), message: &ProcessMessage) -> std::io::Result<()> {
    let line = encode(message).map_err(std::io::Error::other)?;
    write.write_all(line.as_bytes()).await
}
