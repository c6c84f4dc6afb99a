//! Work that blocks, such as reading files: on threads made for it, or in place.
//!
//! One idea: where it is done is decided once for the whole process. A simulation does it in place, since what comes back from a thread comes
//! at a time of its own.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::io::AllowStdIo;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use tokio_util::either::Either;

static IN_PLACE: AtomicBool = AtomicBool::new(false);

/// The runtime is shutting down, and the work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted: the program is shutting down")]
pub struct Interrupted;

/// From now on, work that blocks is done by whoever asks for it, in all of this process. For simulations.
pub fn stay_in_place() {
    IN_PLACE.store(true, Ordering::Relaxed);
}

/// Whether work that blocks is done in place.
pub fn is_in_place() -> bool {
    IN_PLACE.load(Ordering::Relaxed)
}

/// A file that is read and written where work that blocks is done.
pub type BlockingFile = Either<tokio::fs::File, Compat<AllowStdIo<File>>>;

/// Reads and writes a file from where it stands.
pub fn file(file: File) -> BlockingFile {
    if is_in_place() { Either::Right(AllowStdIo::new(file).compat()) } else { Either::Left(tokio::fs::File::from_std(file)) }
}

/// What a future comes to that, with all work in place, waits for nobody. For work that blocks and is done in place itself.
///
/// # Panics
/// When it does wait for somebody: nobody else can do anything meanwhile.
pub fn at_once<F: Future>(future: F) -> F::Output {
    tokio::task::coop::unconstrained(future).now_or_never().expect("with all work in place this waits for nobody")
}

/// Does `work` where it may block. A panic in it goes on here.
///
/// # Errors
/// [`Interrupted`].
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Interrupted> {
    if is_in_place() {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Interrupted),
        },
    }
}
