//! The desk against real sockets and real processes, in Python and in Rust.
#![allow(clippy::unwrap_used)]

mod limits;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::mpsc as blocking;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tribune_process::protocol::{
    ChangeoverPending, HandOver, MAX_LINE, Outcome, OutcomeTold, Overruled, PackageChange, Proposal, Role,
};
use tribune_process::{Ballot, Handler, Process};

use super::*;
use crate::processes::ballot::{Action, Answer, Ask, Event, How, Objection, Poll, Question, Silent, Speech};
use crate::processes::identity::look_up;
use crate::processes::modules::{ManagedModule, ManagedModules};
use crate::processes::system::Linux;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A desk on a folder of its own.
struct Office {
    folder: TempDir,
    desk: Desk,
    events: mpsc::Receiver<DeskEvent>,
    modules: watch::Sender<Arc<ManagedModules>>,
}

impl Office {
    fn open(limits: Limits) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), limits)
    }

    fn open_in(folder: TempDir, limits: Limits) -> Self {
        let (modules, now) = watch::channel(Arc::default());
        let config = DeskConfig { socket: folder.path().join("process.sock"), group: None, node: "n1".into(), limits };
        let (desk, events) = Desk::open(Arc::new(Linux), config, now).unwrap();
        Self { folder, desk, events, modules }
    }

    /// A second agent on the same folder, as after a restart.
    fn reopen(self) -> Self {
        let Self { folder, desk, events, .. } = self;
        drop((desk, events));
        Self::open_in(folder, Limits::default())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("process.sock")
    }

    async fn event(&mut self) -> DeskEvent {
        timeout(LONG, self.events.recv()).await.expect("no event in time").unwrap()
    }

    async fn hello(&mut self) -> ConnectedProcess {
        match self.event().await {
            DeskEvent::Hello(connected) => connected,
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// This test's own process, connected and welcomed.
    async fn connect(&mut self) -> (Line, ProcessId) {
        let mut line = Line::open(&self.socket()).await;
        line.say(r#"{"type":"hello","protocol":1,"name":"test"}"#).await;
        assert_eq!(line.hear().await["type"], "welcome");
        let process = self.hello().await.process;
        assert_eq!(process.pid, std::process::id());
        (line, process)
    }
}

/// A connection that says and hears raw lines.
struct Line(BufReader<UnixStream>);

impl Line {
    async fn open(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).await.unwrap()))
    }

    async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> serde_json::Value {
        let mut line = String::new();
        timeout(LONG, self.0.read_line(&mut line)).await.expect("nothing heard in time").unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a line of JSON: {line:?}"))
    }

    async fn hear_error(&mut self) -> String {
        let heard = self.hear().await;
        assert_eq!(heard["type"], "error", "{heard}");
        heard["message"].as_str().unwrap().to_owned()
    }

    async fn is_closed(&mut self) {
        let mut line = String::new();
        let end = timeout(LONG, self.0.read_line(&mut line)).await.expect("still open");
        // Reset rather than closed when the desk left bytes unread.
        assert!(end.map_or(true, |read| read == 0), "{line}");
    }
}

/// A child process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// A program in Python, with nothing but its standard library, that says hello and answers each proposal with what
    /// `answer` gives; it leads a process group of its own.
    fn python(socket: &Path, answer: &str) -> Self {
        let script = format!(
            "import os,socket,json\n\
             s=socket.socket(socket.AF_UNIX); s.connect(os.environ['TRIBUNE_SOCKET']); f=s.makefile('rw')\n\
             def say(m): f.write(json.dumps(m)+'\\n'); f.flush()\n\
             say({{'type':'hello','protocol':1,'name':'py'}})\n\
             for line in f:\n\
             \x20m=json.loads(line)\n\
             \x20if m['type']=='proposal': say({{'update':m['update'],'revision':m['revision'],**{answer}}})\n\
             \x20if m['type']=='changeover-pending': say({{'type':'ready','update':m['update']}})\n\
             \x20if m['type']=='outcome': say({{'type':'seen','update':m['update']}})\n"
        );
        let mut command = Program::new("python3");
        command.args(["-c", &script]).env("TRIBUNE_SOCKET", socket).process_group(0);
        Self(command.spawn().unwrap())
    }
}

fn proposal(update: &str, revision: u64) -> Proposal {
    Proposal {
        update: update.into(),
        revision,
        packages: vec![PackageChange {
            name: "billing".into(),
            from: Some("1.0.0".into()),
            to: Some("2.0.0".into()),
            id: "ab".into(),
            depends_on: vec!["rates/rates".into()],
        }],
        modules: vec!["billing/billingd".into()],
        left_out: 0,
        role: Role::Replaced,
        within_ms: 5_000,
    }
}

fn asks(update: &str, revision: u64) -> NodeMessage {
    NodeMessage::Proposal(proposal(update, revision))
}

/// A process that writes down what it hears, and objects.
struct Diary(blocking::Sender<String>);

impl Diary {
    fn note(&self, text: impl Into<String>) {
        let _ = self.0.send(text.into());
    }
}

impl Handler for Diary {
    fn on_welcome(&mut self, welcome: &tribune_process::Welcome) {
        self.note(format!("welcome to {}", welcome.node));
    }
    fn on_proposal(&mut self, proposal: &Proposal) -> Ballot {
        self.note(format!("proposal {} {}", proposal.update, proposal.revision));
        Ballot::Veto("3 calls\nare up — é".into())
    }
    fn on_overruled(&mut self, overruled: &Overruled) {
        self.note(format!("overruled by {}: {}", overruled.by, overruled.why));
    }
    fn on_changeover_pending(&mut self, pending: &ChangeoverPending) {
        self.note(format!("pending {}", pending.attempt));
    }
    fn on_hand_over(&mut self, _: &HandOver) -> Option<String> {
        self.note("hand over");
        Some("42 calls".into())
    }
    fn on_outcome(&mut self, told: &OutcomeTold) {
        self.note(format!("outcome {:?}", told.outcome));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_process_hears_an_update_from_proposal_to_outcome() {
    let mut office = Office::open(Limits::default());
    let (write, read) = blocking::channel();
    let session = Process::at(&office.socket()).name("diary").version("1.2").serve(Diary(write)).unwrap();
    let ConnectedProcess { process, name, version, module, .. } = office.hello().await;
    assert_eq!((name.as_deref(), version.as_deref(), module), (Some("diary"), Some("1.2"), None));
    assert_eq!(office.desk.connected().await.len(), 1);

    office.desk.send(process, asks("u", 1)).await.unwrap();
    let said = Said::Veto { reason: "3 calls\nare up — é".into() };
    assert_eq!(office.event().await, DeskEvent::Ballot { process, update: "u".into(), revision: 1, said: said.clone() });
    office.desk.send(process, asks("u", 1)).await.unwrap();
    assert_eq!(office.event().await, DeskEvent::Ballot { process, update: "u".into(), revision: 1, said });
    let overruled = Overruled { update: "u".into(), by: "anna".into(), why: "leak".into() };
    office.desk.send(process, NodeMessage::Overruled(overruled)).await.unwrap();
    let pending = ChangeoverPending { update: "u".into(), attempt: 2, role: Role::Replaced, within_ms: 1000 };
    office.desk.send(process, NodeMessage::ChangeoverPending(pending)).await.unwrap();
    assert_eq!(office.event().await, DeskEvent::Ready { process, update: "u".into(), attempt: 2 });
    office.desk.send(process, NodeMessage::HandOver(HandOver { update: "u".into(), attempt: 2 })).await.unwrap();
    let state = Some("42 calls".to_owned());
    assert_eq!(office.event().await, DeskEvent::HandedOver { process, update: "u".into(), attempt: 2, state });
    session.health(HealthStatus::Unhealthy, Some("queue is full"));
    let detail = Some("queue is full".to_owned());
    assert_eq!(office.event().await, DeskEvent::Health { process, status: HealthStatus::Unhealthy, detail });
    for _ in 0..2 {
        let told = OutcomeTold { update: "u".into(), outcome: Outcome::Completed, reason: None };
        office.desk.send(process, NodeMessage::Outcome(told)).await.unwrap();
        assert_eq!(office.event().await, DeskEvent::Seen { process, update: "u".into() });
    }
    session.close();
    assert_eq!(office.event().await, DeskEvent::Disconnected(process));
    let heard: Vec<_> = read.into_iter().collect();
    let expected = ["welcome to n1", "proposal u 1", "overruled by anna: leak", "pending 2", "hand over", "outcome Completed"];
    assert_eq!(heard, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_round_asks_three_processes_and_hears_a_veto_word_for_word_a_slow_accept_and_one_that_dies() {
    let mut office = Office::open(Limits::default());
    let socket = office.socket();
    let veto = Running::python(&socket, "{'type':'veto','reason':'3 calls are up: é'}");
    let slow = Running::python(&socket, "(__import__('time').sleep(0.3), {'type':'accept'})[1]");
    let dies = Running::python(&socket, "os._exit(1)");
    let mut asked = Vec::new();
    while asked.len() < 3 {
        let process = office.hello().await.process;
        asked.push(Ask {
            process,
            name: process.to_string(),
            role: Role::Affected,
            how: How::Socket,
            speech: Speech::SaidHello,
            within_ms: 60_000,
            silent: Silent::Veto,
            missing: None,
        });
    }
    let question = Question { proposal: proposal("u", 1), began: 0, deferred_ms: 0, max_defer_ms: 0 };
    let (mut poll, actions) = Poll::begin(question, asked, 0);
    for action in actions {
        let Action::Propose { process, proposal } = action else { panic!("{action:?}") };
        office.desk.send(process, NodeMessage::Proposal(proposal)).await.unwrap();
    }
    while !poll.is_over() {
        match office.event().await {
            DeskEvent::Ballot { process, revision, said, .. } => {
                poll.handle(1, Event::Answer { process, revision, said }).unwrap();
            }
            DeskEvent::Gone(process) => {
                poll.handle(1, Event::Gone(process)).unwrap();
            }
            DeskEvent::Disconnected(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let answers: HashMap<u32, Answer> = poll.ballots().into_iter().map(|ballot| (ballot.process.pid, ballot.answer)).collect();
    let reason = "3 calls are up: é".to_owned();
    assert_eq!(answers[&veto.0.id()], Answer::Veto { kind: Objection::Said, reason });
    assert!(matches!(answers[&slow.0.id()], Answer::Accept(_)));
    assert_eq!(answers[&dies.0.id()], Answer::Abstain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_known_by_its_process_group_also_when_it_spoke_first() {
    let mut office = Office::open(Limits::default());
    let child = Running::python(&office.socket(), "{'type':'accept'}");
    let first = office.hello().await;
    assert_eq!((first.process.pid, first.module), (child.0.id(), None));
    let main = look_up(child.0.id()).unwrap().id;
    let module = ManagedModule { module: "billing/billingd".into(), main };
    office.modules.send(Arc::new(ManagedModules(vec![module]))).unwrap();
    assert_eq!(office.hello().await.module.as_deref(), Some("billing/billingd"));
    let pending = ChangeoverPending { update: "u".into(), attempt: 7, role: Role::Replaced, within_ms: 1 };
    office.desk.send(main, NodeMessage::ChangeoverPending(pending)).await.unwrap();
    assert_eq!(office.event().await, DeskEvent::Ready { process: main, update: "u".into(), attempt: 7 });
}

#[tokio::test]
async fn a_process_speaks_only_for_itself_and_only_about_what_it_was_asked() {
    let mut office = Office::open(Limits::default());
    let other = Running::python(&office.socket(), "{'type':'ignored'}");
    let other_id = office.hello().await.process;
    let (mut line, process) = office.connect().await;
    assert_ne!(process, other_id);
    office.desk.send(other_id, asks("theirs", 1)).await.unwrap();
    line.say(&format!(r#"{{"type":"veto","update":"theirs","revision":1,"reason":"x","pid":{}}}"#, other.0.id())).await;
    assert_eq!(line.hear_error().await, "this process was not asked about update \"theirs\"");
    office.desk.send(process, asks("mine", 2)).await.unwrap();
    assert_eq!(line.hear().await["packages"][0]["depends_on"][0], "rates/rates");
    line.say(r#"{"type":"accept","update":"mine","revision":1}"#).await;
    assert!(line.hear_error().await.contains("revision 2"));
    line.say(&format!(r#"{{"type":"accept","update":"mine","revision":2,"pid":{}}}"#, other.0.id())).await;
    let accepted = DeskEvent::Ballot { process, update: "mine".into(), revision: 2, said: Said::Accept };
    assert_eq!(office.event().await, accepted, "as the process the kernel says it is");
}

#[tokio::test]
async fn a_process_that_is_told_an_outcome_twice_acknowledges_it_twice_and_hears_no_error() {
    let mut office = Office::open(Limits::default());
    let (mut line, process) = office.connect().await;
    let told = OutcomeTold { update: "u".into(), outcome: Outcome::Aborted, reason: None };
    for _ in 0..2 {
        office.desk.send(process, NodeMessage::Outcome(told.clone())).await.unwrap();
        assert_eq!(line.hear().await["update"], "u");
    }
    line.say(r#"{"type":"seen","update":"u"}"#).await;
    line.say(r#"{"type":"seen","update":"u"}"#).await;
    line.say(r#"{"type":"seen","update":"another"}"#).await;
    assert_eq!(office.event().await, DeskEvent::Seen { process, update: "u".into() });
    assert_eq!(line.hear_error().await, "this process was not asked about update \"another\"");
}

#[tokio::test]
async fn the_newest_connection_of_a_process_speaks_for_it() {
    let mut office = Office::open(Limits::default());
    let (mut older, process) = office.connect().await;
    let (mut newer, _) = office.connect().await;
    assert_eq!(older.hear_error().await, "another connection of this process has taken over");
    older.is_closed().await;
    office.desk.send(process, asks("u", 1)).await.unwrap();
    assert_eq!(newer.hear().await["update"], "u");
    assert_eq!(office.desk.connected().await.len(), 1);
}

#[tokio::test]
async fn the_end_of_a_process_is_told_once_and_losing_its_connection_is_not_its_end() {
    let mut office = Office::open(Limits::default());
    let mut child = Running::python(&office.socket(), "(f.close(), s.close(), __import__('signal').pause())");
    let process = office.hello().await.process;
    office.desk.send(process, asks("u", 1)).await.unwrap();
    assert_eq!(office.event().await, DeskEvent::Disconnected(process));
    child.0.kill().unwrap();
    assert_eq!(office.event().await, DeskEvent::Gone(process), "it was asked, so its end matters");

    let mut plain = Running(Program::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap());
    let plain_id = look_up(plain.0.id()).unwrap().id;
    office.desk.watch(plain_id).await;
    office.desk.watch(plain_id).await;
    plain.0.kill().unwrap();
    plain.0.wait().unwrap();
    assert_eq!(office.event().await, DeskEvent::Gone(plain_id));
    office.desk.watch(plain_id).await;
    assert_eq!(office.event().await, DeskEvent::Gone(plain_id), "at once for one that has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_finds_the_next_agent_and_repeats_its_answer_when_asked_again() {
    let mut office = Office::open(Limits::default());
    let (write, read) = blocking::channel();
    let session = Process::at(&office.socket()).serve(Diary(write)).unwrap();
    let process = office.hello().await.process;
    office.desk.send(process, asks("u", 1)).await.unwrap();
    let first = office.event().await;
    let mut office = office.reopen();
    assert_eq!(office.hello().await.process, process);
    office.desk.send(process, asks("u", 1)).await.unwrap();
    assert_eq!(office.event().await, first);
    session.close();
    let heard: Vec<_> = read.into_iter().filter(|note| note.starts_with("proposal")).collect();
    assert_eq!(heard, ["proposal u 1"], "the handler was asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_objection_after_accepting_reaches_the_node_until_the_process_is_ready() {
    struct Willing;
    impl Handler for Willing {}
    let mut office = Office::open(Limits::default());
    let session = Process::at(&office.socket()).serve(Willing).unwrap();
    let process = office.hello().await.process;
    assert!(session.veto("u", "too early").is_err());
    office.desk.send(process, asks("u", 1)).await.unwrap();
    let ballot = |said| DeskEvent::Ballot { process, update: "u".into(), revision: 1, said };
    assert_eq!(office.event().await, ballot(Said::Accept));
    session.veto("u", "a call came in").unwrap();
    assert_eq!(office.event().await, ballot(Said::Veto { reason: "a call came in".into() }));
    let overruled = Overruled { update: "u".into(), by: "anna".into(), why: "leak".into() };
    office.desk.send(process, NodeMessage::Overruled(overruled)).await.unwrap();
    let pending = ChangeoverPending { update: "u".into(), attempt: 0, role: Role::Replaced, within_ms: 1 };
    office.desk.send(process, NodeMessage::ChangeoverPending(pending)).await.unwrap();
    assert_eq!(office.event().await, DeskEvent::Ready { process, update: "u".into(), attempt: 0 });
    assert!(session.veto("u", "no").is_err());
}

#[tokio::test]
async fn the_socket_is_private_and_the_end_of_a_desk_leaves_that_of_the_next_alone() {
    let office = Office::open(Limits::default());
    let socket = office.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let Office { folder, desk, mut events, .. } = office;
    let second = Office::open_in(folder, Limits::default());
    drop(desk);
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), None, "the first has ended");
    Line::open(&socket).await;
    let Office { folder, desk, mut events, .. } = second;
    drop(desk);
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), None);
    let refused = UnixStream::connect(&socket).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(folder);
}
