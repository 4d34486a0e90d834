//! Long work beside the serving of clients.

use std::{panic, sync::mpsc, thread};

/// Where processors are busy, such a thread gets a third of what one that serves clients gets
/// (`sched(7)`); where they are not, all it can use.
const NICENESS: i32 = 5;
/// The most there is.
const NICENESS_MAX: i32 = 19;

/// Does `work` on a thread of its own, which gives way to those that serve clients, and waits for it.
///
/// # Panics
/// When `work` panics.
pub(crate) fn give_way<T, F>(name: &str, work: F) -> T
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    let (hand_over, taken) = mpsc::sync_channel::<F>(1);
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
            step_back();
            taken.recv().ok().map(|work| work())
        });
        // Where no thread is to be had, the work is done all the same.
        let Ok(thread) = thread else { return work() };
        drop(hand_over.send(work));
        match thread.join() {
            Ok(done) => done.expect("it was handed over"),
            Err(panic) => panic::resume_unwind(panic),
        }
    })
}

/// Makes this thread nicer, for good: who wants less of that again needs a privilege. On Linux a priority
/// is a thread's; elsewhere it is a process's, and stays as it is.
fn step_back() {
    if cfg!(target_os = "linux")
        && let Ok(niceness) = rustix::process::getpriority_process(None)
    {
        // Where it is refused the work is no less due.
        let _ = rustix::process::setpriority_process(None, (niceness + NICENESS).min(NICENESS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn work_gives_way_and_whoever_waits_for_it_does_not() {
        let before = niceness();
        let (there, name) =
            give_way("patient", || (niceness(), thread::current().name().map(str::to_owned)));
        assert_eq!(
            (there, name.as_deref()),
            ((before + NICENESS).min(NICENESS_MAX), Some("patient"))
        );
        assert_eq!(niceness(), before);
    }

    #[test]
    #[should_panic(expected = "as it was")]
    fn panic_of_the_work_is_that_of_the_caller() {
        give_way("patient", || panic!("as it was"));
    }
}
