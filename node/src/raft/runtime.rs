//! The threads that Raft has for itself, and where its stores lie.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::RaftError;
use crate::world::{OnDisk, RaftThreads, Stores, World};

/// Enough for one to apply a large command while the other answers heartbeats.
const THREADS: usize = 2;

/// Threads on which nothing else runs. The control network is best started on them too: a heartbeat goes through it.
/// They end, and what runs on them is dropped, with the last clone.
#[derive(Debug, Clone)]
pub struct RaftRuntime {
    owned: Arc<Owned>,
    stores: Arc<dyn Stores>,
}

#[derive(Debug)]
struct Owned {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Not by waiting for it, which is not allowed where futures run.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl RaftRuntime {
    /// Starts what this world has for Raft.
    ///
    /// # Errors
    /// [`RaftError::Thread`].
    pub fn of(world: &World) -> Result<Self, RaftError> {
        let runtime = match world.threads {
            RaftThreads::Own => Self::start()?,
            RaftThreads::Shared => Self::current(),
        };
        Ok(Self { stores: world.stores.clone(), ..runtime })
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// [`RaftError::Thread`].
    pub fn start() -> Result<Self, RaftError> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("raft").enable_all().build().map_err(RaftError::Thread)?;
        let handle = runtime.handle().clone();
        Ok(Self { owned: Arc::new(Owned { runtime: Some(runtime), handle }), stores: Arc::new(OnDisk) })
    }

    /// No threads of its own: the runtime that calls this. For simulations, where there is one for everything.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn current() -> Self {
        Self { owned: Arc::new(Owned { runtime: None, handle: Handle::current() }), stores: Arc::new(OnDisk) }
    }

    /// Where its stores lie.
    pub(super) fn stores(&self) -> Arc<dyn Stores> {
        self.stores.clone()
    }

    /// Where to start what is to run here.
    pub fn handle(&self) -> &Handle {
        &self.owned.handle
    }
}
