//! A keeper and a network made for tests: real processes, started as the agent says, and module bytes from memory.

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tribune_keeper::{
    AfterExit, ChildId, ChildSpec, ChildState, ChildStatus, Event, Exit, Hello, KeeperStart, OpenSocket, Refusal, SignalName,
    SocketAddress,
};
use tribune_messages::node::{Directive, Keep, Overruling, Want};
use tribune_p2p::blobs::BlobStore;
use tribune_raft_store::model::{Generation, NodeName, NodePlan, NodeReport, Platform, Signature, Span, UpdateId, UpdateKind};

use crate::agent::{Agent, AgentConfig, ModuleSource, Standing, UpdateStanding};
use crate::keeper::{Children, ChildrenError};
use crate::local::tests::fixtures::{module, package, plan, texts};
use crate::local::{Installed, LocalStorage, StoredManifest};
use crate::processes::identity::look_up;

pub(super) const LONG: Duration = Duration::from_secs(40);

/// Starts real processes, outlives agents, and remembers what it was told.
#[derive(Default)]
pub(super) struct TestKeeper {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kids: BTreeMap<ChildId, Kid>,
    events: Option<mpsc::Sender<Event>>,
    log: Vec<String>,
}

struct Kid {
    spec: ChildSpec,
    state: ChildState,
    since: Instant,
    stopping: bool,
}

impl TestKeeper {
    /// A new agent listens.
    pub(super) fn listen(&self) -> mpsc::Receiver<Event> {
        let (events, happened) = mpsc::channel(1024);
        self.inner.lock().unwrap().events = Some(events);
        happened
    }

    /// What was started and stopped since this was asked last.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().log)
    }

    /// The children that run: module, instance and pid.
    pub(super) fn running(&self) -> Vec<(String, u64, u32)> {
        let inner = self.inner.lock().unwrap();
        let running = |(id, kid): (&ChildId, &Kid)| match &kid.state {
            ChildState::Running { process, .. } => Some((id.key.clone(), id.instance, process.pid)),
            _ => None,
        };
        inner.kids.iter().filter_map(running).collect()
    }

    /// Everything dies, as with the machine.
    pub(super) fn die(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.events = None;
        for kid in inner.kids.values() {
            if let ChildState::Running { process, .. } = &kid.state {
                kill(process.pid, "KILL");
            }
        }
        inner.kids.clear();
    }

    fn spawn(self: &Arc<Self>, spec: ChildSpec) -> Result<(), ChildrenError> {
        let mut inner = self.inner.lock().unwrap();
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).env_clear().envs(&spec.env).current_dir(&spec.folder).process_group(0);
        let mut child =
            command.spawn().map_err(|error| ChildrenError::Refused { why: Refusal::System, message: error.to_string() })?;
        let id = look_up(child.id()).unwrap().id;
        let process = tribune_keeper::ProcessId { pid: id.pid, start_time: id.start_time };
        let name = spec.id.clone();
        inner.log.push(format!("start {name}"));
        let kid = Kid { spec, state: ChildState::Running { process, for_ms: 0 }, since: Instant::now(), stopping: false };
        inner.kids.insert(name.clone(), kid);
        let sent = inner.events.as_ref().map(|events| events.try_send(Event::Started { child: name.clone(), process }));
        drop(sent);
        let keeper = self.clone();
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            let exit = status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or(0)), Exit::Code);
            keeper.ended(&name, process, exit);
        });
        Ok(())
    }

    fn ended(&self, name: &ChildId, process: tribune_keeper::ProcessId, exit: Exit) {
        let mut inner = self.inner.lock().unwrap();
        let Some(kid) = inner.kids.get_mut(name) else { return };
        kid.state = if kid.stopping {
            ChildState::Stopped { last: Some(exit.clone()) }
        } else {
            ChildState::Broken { exits: 1, last: exit.clone() }
        };
        let then = AfterExit::Stopped;
        let event = Event::Exited { child: name.clone(), process: Some(process), exit, then };
        let sent = inner.events.as_ref().map(|events| events.try_send(event));
        drop(sent);
    }
}

/// The threads that wait for the processes hold the keeper, so it is the world that ends them.
impl Drop for World {
    fn drop(&mut self) {
        self.keeper.die();
    }
}

fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([format!("-{signal}"), "--".into(), format!("-{pid}")]).status();
}

/// The keeper as an agent has it.
pub(super) struct TestChildren(pub(super) Arc<TestKeeper>);

impl Children for TestChildren {
    fn start(&self, spec: ChildSpec) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let started = self.0.spawn(spec);
        async move { started }.boxed()
    }

    fn stop(&self, child: ChildId, _within: Option<Duration>) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let mut inner = self.0.inner.lock().unwrap();
        inner.log.push(format!("stop {child}"));
        if let Some(kid) = inner.kids.get_mut(&child) {
            kid.stopping = true;
            if let ChildState::Running { process, .. } = kid.state.clone() {
                kid.state = ChildState::Stopping { process, kill_in_ms: 1000 };
                kill(process.pid, "TERM");
            }
        }
        async { Ok(()) }.boxed()
    }

    fn restart(&self, _child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        async { Err(ChildrenError::Gone) }.boxed()
    }

    fn signal(&self, child: ChildId, signal: SignalName) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.0.inner.lock().unwrap().log.push(format!("signal {child} {signal:?}"));
        async { Ok(()) }.boxed()
    }

    fn remove(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.0.inner.lock().unwrap().kids.remove(&child);
        async { Ok(()) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ChildStatus>, ChildrenError>> {
        let inner = self.0.inner.lock().unwrap();
        let status = |(id, kid): (&ChildId, &Kid)| {
            let state = match &kid.state {
                ChildState::Running { process, .. } => {
                    ChildState::Running { process: *process, for_ms: kid.since.elapsed().as_millis() as u64 }
                }
                other => other.clone(),
            };
            ChildStatus { id: id.clone(), label: kid.spec.label.clone(), state, endings: 0, log: kid.spec.log.path.clone() }
        };
        let all = inner.kids.iter().map(status).collect();
        async move { Ok(all) }.boxed()
    }

    fn open_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<OpenSocket, ChildrenError>> {
        async move { Ok(OpenSocket { bound: address.clone(), address }) }.boxed()
    }

    fn release_socket(&self, _address: SocketAddress) -> BoxFuture<'_, Result<(), ChildrenError>> {
        async { Ok(()) }.boxed()
    }

    fn list_sockets(&self) -> BoxFuture<'_, Result<Vec<OpenSocket>, ChildrenError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), ChildrenError>> {
        async { Ok(()) }.boxed()
    }
}

/// Module bytes from memory.
#[derive(Default)]
pub(super) struct TestSource {
    bytes: Mutex<BTreeMap<Signature, Vec<u8>>>,
    pub(super) fetched: Mutex<Vec<Signature>>,
}

impl ModuleSource for TestSource {
    fn fetch<'a>(&'a self, signature: Signature, _size: u64, into: &'a BlobStore) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let bytes = self.bytes.lock().unwrap().get(&signature).cloned().ok_or("nobody has it")?;
            self.fetched.lock().unwrap().push(signature);
            into.import(bytes.as_slice(), u64::MAX, None).await.map_err(|error| error.to_string())?;
            Ok(())
        }
        .boxed()
    }
}

/// A node: its folder, its keeper, and where its modules come from.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) keeper: Arc<TestKeeper>,
    pub(super) source: Arc<TestSource>,
    run: String,
    updates: u64,
}

/// A module that runs this script; it settles within half a second.
pub(super) fn script(name: &str, source: &TestSource, script: &str, more: Value) -> Value {
    let bytes = format!("#!/bin/sh\n{script}\n");
    source.bytes.lock().unwrap().insert(Signature::of(bytes.as_bytes()), bytes.clone().into_bytes());
    let mut fields = json!({ "run": [name], "health": { "settle": "500ms" } });
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    module(name, &bytes, fields)
}

/// What a speaking process does: it writes down what it hears and answers as its options say. It finds the next agent
/// when one ends, once there is no file `away-VERSION`.
const SPEAKER: &str = r#"exec python3 -c '
import json,os,socket,time
out=open(os.environ["HOME"]+"/heard","a",buffering=1)
me=os.environ["TRIBUNE_MODULE"]+" "+os.environ["TRIBUNE_VERSION"]
def serve(s):
    # Two files: to write to one that is read as well drops the lines that it has read ahead.
    heard,said=s.makefile("r"),s.makefile("w")
    def say(**m): said.write(json.dumps(m)+"\n"); said.flush()
    say(type="hello",protocol=1)
    for line in heard:
        m=json.loads(line); t=m["type"]; out.write(me+" "+t+"\n")
        if t=="proposal":
            if os.path.exists(os.environ["HOME"]+"/defer"): say(type="defer",update=m["update"],revision=m["revision"],for_ms=1000,reason="a call is up")
            elif os.path.exists(os.environ["HOME"]+"/veto"): say(type="veto",update=m["update"],revision=m["revision"],reason="three calls are up")
            else: say(type="accept",update=m["update"],revision=m["revision"])
        elif t=="changeover-pending" and os.path.exists(os.environ["HOME"]+"/late"): say(type="veto",update=m["update"],revision=1,reason="a call came in")
        elif t=="changeover-pending" and os.path.exists(os.environ["HOME"]+"/deaf"): pass
        elif t=="changeover-pending": say(type="ready",update=m["update"],attempt=m["attempt"])
        elif t=="hand-over": say(type="handed-over",update=m["update"],attempt=m["attempt"])
        elif t=="outcome" and not os.path.exists(os.environ["HOME"]+"/never-seen"): say(type="seen",update=m["update"])
while True:
    while os.path.exists(os.environ["HOME"]+"/away-"+os.environ["TRIBUNE_VERSION"]): time.sleep(0.02)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.environ["TRIBUNE_SOCKET"])
            serve(s)
    except OSError: pass
    time.sleep(0.02)
' # "#;

/// A module that speaks the process socket.
pub(super) fn speaker(name: &str, source: &TestSource, mark: &str, more: Value) -> Value {
    script(name, source, &format!("{SPEAKER}{mark}"), more)
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, keeper: Arc::default(), source: Arc::default(), run: "run-1".into(), updates: 0 }
    }

    pub(super) async fn agent(&self) -> Agent {
        let config = AgentConfig {
            data: self.folder.path().to_owned(),
            node: NodeName::new("n1").unwrap(),
            platform: Platform::here(),
            runners: BTreeMap::new(),
            process_group: None,
            reserve: 0,
            system: Arc::new(crate::processes::system::Linux),
        };
        let hello = Hello {
            protocol: 1,
            software: "test".into(),
            keeper_pid: 1,
            run: self.run.clone(),
            began: KeeperStart::NodeRestart,
            agent_starts: 1,
        };
        let events = self.keeper.listen();
        let children = Arc::new(TestChildren(self.keeper.clone()));
        Agent::start(config, children, hello, events, self.source.clone()).await.unwrap()
    }

    /// The machine starts anew.
    pub(super) fn restart_node(&mut self) {
        self.keeper.die();
        self.run.push('+');
    }

    /// What the processes heard.
    pub(super) fn heard(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("home/heard")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The update that leads from what the node has to these packages.
    pub(super) fn update(&mut self, standing: &Standing, base: &[Arc<StoredManifest>], to: &[Arc<StoredManifest>]) -> Update {
        self.updates += 1;
        let number = standing.current.number;
        let base = if base.is_empty() { Installed::default() } else { crate::local::tests::fixtures::having(base) };
        assert_eq!(base.generation.packages, standing.current.packages, "generation {number}");
        Update {
            id: UpdateId(self.updates),
            plan: plan(&base, to),
            manifests: texts(to),
            overruled: Vec::new(),
            round: 0,
            keep: Keep::Installed,
            max_defer: Span::from_secs(60),
        }
    }

    /// Installs packages, with everything that belongs to it.
    pub(super) async fn install(
        &mut self,
        agent: &Agent,
        base: &[Arc<StoredManifest>],
        to: &[Arc<StoredManifest>],
    ) -> Generation {
        let standing = agent.standing().borrow().clone();
        let update = self.update(&standing, base, to);
        update.to_ready(agent).await;
        update.want(agent, Want::Settled);
        let reports = update.until(agent, |reports| matches!(reports.last(), Some(NodeReport::Settled { .. }))).await;
        update.end(agent, tribune_raft_store::model::Outcome::Completed).await;
        match reports.last() {
            Some(NodeReport::Settled { current }) => current.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn storage(&self) -> LocalStorage {
        LocalStorage::open(self.folder.path().join("local")).await.unwrap()
    }
}

/// An update, and what the master says of it.
#[derive(Clone)]
pub(super) struct Update {
    pub(super) id: UpdateId,
    pub(super) plan: NodePlan,
    pub(super) manifests: Vec<String>,
    pub(super) overruled: Vec<Overruling>,
    pub(super) round: u32,
    pub(super) keep: Keep,
    pub(super) max_defer: Span,
}

impl Update {
    pub(super) fn want(&self, agent: &Agent, want: Want) {
        agent.direct(vec![Directive {
            update: self.id,
            revision: 1,
            round: self.round,
            kind: UpdateKind::Install,
            want,
            plan: self.plan.clone(),
            manifests: self.manifests.clone(),
            max_defer: self.max_defer,
            keep: self.keep,
            overruled: self.overruled.clone(),
        }]);
    }

    /// Waits until the reports of this update are so.
    pub(super) async fn until(&self, agent: &Agent, so: impl Fn(&[NodeReport]) -> bool) -> Vec<NodeReport> {
        let mut standing = agent.standing();
        let there =
            |standing: &Standing| standing.updates.get(&self.id).is_some_and(|UpdateStanding { reports, .. }| so(reports));
        let found = tokio::time::timeout(LONG, standing.wait_for(there)).await;
        match found {
            Ok(found) => found.unwrap().updates[&self.id].reports.clone(),
            Err(_) => {
                // Not while the standing is borrowed: the agent may want to change it.
                let open = agent.local().await.open;
                panic!("it does not come: {:?} {open:?}", agent.standing().borrow());
            }
        }
    }

    pub(super) async fn to_staged(&self, agent: &Agent) {
        self.want(agent, Want::Voted);
        self.until(agent, |reports| matches!(reports.last(), Some(NodeReport::Voted { .. }))).await;
        self.want(agent, Want::Staged);
        self.until(agent, |reports| reports.last() == Some(&NodeReport::Staged)).await;
    }

    pub(super) async fn to_ready(&self, agent: &Agent) {
        self.to_staged(agent).await;
        self.want(agent, Want::Ready);
        self.until(agent, |reports| reports.last() == Some(&NodeReport::Ready)).await;
    }

    pub(super) async fn end(&self, agent: &Agent, outcome: tribune_raft_store::model::Outcome) {
        self.want(agent, Want::Ended { outcome, reason: None });
        let mut standing = agent.standing();
        let over = standing.wait_for(|standing| !standing.updates.contains_key(&self.id));
        tokio::time::timeout(LONG, over).await.unwrap().unwrap();
        agent.direct(Vec::new());
    }
}

pub(super) fn app(version: &str, modules: &[Value]) -> Arc<StoredManifest> {
    package("app", version, modules)
}
