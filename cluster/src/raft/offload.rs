//! Where blocking work runs.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` off the async threads. On a single-threaded runtime (a simulation, whose disks are
/// memory) it runs in place, so that one seed decides everything.
///
/// # Panics
/// When `work` panics: a broken invariant stays one.
pub(crate) async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
