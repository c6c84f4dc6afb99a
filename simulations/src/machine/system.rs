//! What a simulated machine says of its processes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tribune_agent::processes::desk::DeskError;
use tribune_agent::processes::identity::Sighting;
use tribune_agent::processes::notify::{Notification, NotifyError};
use tribune_agent::processes::system::{Caller, Callers, System};
use tribune_agent::processes::{ModulesNow, ProcessId};

use super::{Machine, now};

/// Connections to the process socket that may wait.
const CALLERS: usize = 64;

struct Desk(mpsc::Receiver<Caller>);

impl Callers for Desk {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Caller>> {
        async {
            match self.0.recv().await {
                Some(caller) => Ok(caller),
                // Another agent has taken its place.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl System for Machine {
    fn look_up(&self, pid: u32) -> io::Result<Sighting> {
        match self.lock().alive.get(&pid) {
            Some(id) => Ok(Sighting { id: *id, group: pid }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn exit_of(&self, process: ProcessId) -> io::Result<Option<BoxFuture<'static, ()>>> {
        let (alive, mut exits) = {
            let inner = self.lock();
            (inner.alive.get(&process.pid) == Some(&process), inner.exits.subscribe())
        };
        let machine = self.clone();
        let gone = async move {
            while machine.lock().alive.get(&process.pid) == Some(&process) {
                if exits.changed().await.is_err() {
                    return;
                }
            }
        };
        Ok(alive.then(|| gone.boxed()))
    }

    fn callers(&self, _socket: &Path, _group: Option<u32>) -> Result<Box<dyn Callers>, DeskError> {
        let (desk, callers) = mpsc::channel(CALLERS);
        self.lock().desk = Some(desk);
        Ok(Box::new(Desk(callers)))
    }

    fn notifications(&self, _socket: PathBuf, _modules: ModulesNow) -> Result<mpsc::Receiver<Notification>, NotifyError> {
        let (told, notifications) = mpsc::channel(1);
        // Simulated processes speak the process socket: nothing comes here, and it stays open.
        tokio::spawn(async move { told.closed().await });
        Ok(notifications)
    }

    fn uptime(&self) -> Duration {
        now().saturating_sub(self.lock().booted)
    }
}
