//! A process for tests: it is a module of a package, writes down everything its node tells it, and does what a test tells it.
//!
//! Its log is its output, one JSON object a line (see `tribune_tests::probe::Entry`). With `--also FOLDER` it writes the same to a file of its
//! own, which a full disk of its node does not keep from it (see `tribune_tests::probe::own_log`). A test speaks to it over the Unix socket
//! `probes/PID` beside the node's process socket, a line at a time, each answered with `ok`:
//!
//! | line | what it does |
//! | --- | --- |
//! | `accept` | accepts proposals; so it begins |
//! | `veto REASON` | vetoes them |
//! | `defer MS REASON` | defers them |
//! | `slow MS` | accepts after so long |
//! | `slow-ready MS` | takes so long to its safe point |
//! | `hold-answer`, `hold-ready` | answers no proposal, or does not come to its safe point, until it is told to `go-on` |
//! | `late-veto UPDATE REASON` | vetoes an update after it has answered |
//! | `exit CODE` | ends |

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tribune_process::{
    Aborted, Ballot, ChangeoverDone, ChangeoverPending, HandOver, Handler, OutcomeTold, Overruled, Process, Proposal, Resume,
    Session,
};
use tribune_tests::probe::{Entry, Said, own_log};
use tribune_tests::processes::own_start_time;

#[derive(Debug, Clone)]
struct Script {
    ballot: Ballot,
    slow: Duration,
    slow_ready: Duration,
}

/// What it does not do before it is told to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Answer,
    Ready,
}

static HELD: Mutex<Option<Held>> = Mutex::new(None);
static GO_ON: Condvar = Condvar::new();

fn hold(held: Option<Held>) {
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = held;
    GO_ON.notify_all();
}

fn wait_while(held: Held) {
    let now = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    drop(GO_ON.wait_while(now, |now| *now == Some(held)));
}

type Shared = Arc<Mutex<Script>>;

struct Probe {
    script: Shared,
}

/// Its own file, with `--also`.
static ALSO: OnceLock<File> = OnceLock::new();

fn log(said: Said) {
    let mut line = serde_json::to_vec(&Entry::now(said)).unwrap_or_default();
    line.push(b'\n');
    // Without its log the test fails by itself.
    if let Some(mut also) = ALSO.get() {
        let _ = also.write_all(&line);
    }
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

fn open_own_log(args: &[String], module: &str) -> Result<()> {
    let Some(folder) = args.iter().skip_while(|arg| *arg != "--also").nth(1) else { return Ok(()) };
    let node = std::env::var("TRIBUNE_NODE").context("TRIBUNE_NODE is not set")?;
    let started = own_start_time().context("/proc does not say when this process began")?;
    let path = own_log(Path::new(folder), &node, module, (std::process::id(), started));
    std::fs::create_dir_all(path.parent().context("a file in a folder")?)?;
    let file = File::options().create(true).append(true).open(path)?;
    // Nobody else sets it.
    let _ = ALSO.set(file);
    Ok(())
}

impl Probe {
    fn script(&self) -> Script {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handler for Probe {
    fn on_proposal(&mut self, proposal: &Proposal) -> Ballot {
        let proposal = serde_json::to_value(proposal).unwrap_or_default();
        log(Said::Proposal { proposal });
        let script = self.script();
        // What a test asks for: a process that takes its time.
        std::thread::sleep(script.slow);
        wait_while(Held::Answer);
        log(Said::Answered { answer: format!("{:?}", script.ballot) });
        script.ballot
    }

    fn on_overruled(&mut self, told: &Overruled) {
        log(Said::Overruled { update: told.update.clone(), by: told.by.clone(), why: told.why.clone() });
    }

    fn on_changeover_pending(&mut self, told: &ChangeoverPending) {
        log(Said::Pending { update: told.update.clone() });
        std::thread::sleep(self.script().slow_ready);
        wait_while(Held::Ready);
        log(Said::Ready { update: told.update.clone() });
    }

    fn on_hand_over(&mut self, told: &HandOver) -> Option<String> {
        log(Said::HandOver { update: told.update.clone() });
        None
    }

    fn on_resume(&mut self, told: &Resume) {
        log(Said::Resume { update: told.update.clone() });
    }

    fn on_changeover_done(&mut self, told: &ChangeoverDone) {
        log(Said::Done { update: told.update.clone() });
    }

    fn on_aborted(&mut self, told: &Aborted) {
        log(Said::Aborted { update: told.update.clone() });
    }

    fn on_outcome(&mut self, told: &OutcomeTold) {
        log(Said::Outcome { update: told.update.clone(), outcome: format!("{:?}", told.outcome) });
    }

    fn on_error(&mut self, message: &str) {
        log(Said::Error { message: message.to_owned() });
    }
}

fn main() -> Result<()> {
    let module = std::env::var("TRIBUNE_MODULE").context("TRIBUNE_MODULE is not set")?;
    let version = std::env::var("TRIBUNE_VERSION").unwrap_or_default();
    let script = Arc::new(Mutex::new(Script { ballot: Ballot::Accept, slow: Duration::ZERO, slow_ready: Duration::ZERO }));
    let args: Vec<String> = std::env::args().skip(1).collect();
    open_own_log(&args, &module)?;
    log(Said::Started { module, version: version.clone(), args: args.clone() });
    if args.iter().any(|arg| arg == "--fail") {
        exit(1);
    }
    let control = listen()?;
    let session = Process::connect()?.version(version).serve(Probe { script: script.clone() })?;
    log(Said::Listening);
    for connection in control.incoming() {
        obey(connection?, &script, &session)?;
    }
    Ok(())
}

/// This process's own control socket.
fn listen() -> Result<UnixListener> {
    let socket = std::env::var_os("TRIBUNE_SOCKET").context("TRIBUNE_SOCKET is not set")?;
    let folder = PathBuf::from(socket).with_file_name("probes");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(std::process::id().to_string());
    // One that is there is of a process that had the same pid and was killed.
    let _ = std::fs::remove_file(&path);
    Ok(UnixListener::bind(&path)?)
}

fn obey(stream: UnixStream, script: &Shared, session: &Session) -> Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let millis = |text: &str| text.parse().map(Duration::from_millis).with_context(|| format!("{text:?} is no number"));
        {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            match word {
                "accept" => (script.ballot, script.slow) = (Ballot::Accept, Duration::ZERO),
                "veto" => script.ballot = Ballot::Veto(rest.to_owned()),
                "defer" => {
                    let (time, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                    script.ballot = Ballot::Defer(millis(time)?, reason.to_owned());
                }
                "slow" => script.slow = millis(rest)?,
                "slow-ready" => script.slow_ready = millis(rest)?,
                "hold-answer" => hold(Some(Held::Answer)),
                "hold-ready" => hold(Some(Held::Ready)),
                "go-on" => hold(None),
                "late-veto" => {
                    let (update, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                    if let Err(refused) = session.veto(update, reason) {
                        writeln!(answers, "{refused}")?;
                        continue;
                    }
                }
                "exit" => exit(rest.parse().unwrap_or(1)),
                other => bail!("{other:?} is no order for a probe"),
            }
        }
        answers.write_all(b"ok\n")?;
    }
    Ok(())
}
