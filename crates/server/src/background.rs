//! Threads for work that no request waits for: collections, scrubs, squeezing, counting.
//!
//! They take what requests leave of the processors: on Linux each thread has a nice value of its own, which can be raised
//! by anybody, and by few be lowered again, so that such work has threads of its own and none of a pool. What it holds a
//! lock for that requests want as well must be short all the same.

use std::io;
use std::thread::{self, JoinHandle};

use tracing::Span;

/// What is added to the server's own nice value. Where others want a processor all the time, a thread with 10 more gets a
/// tenth of what one of theirs gets, and so comes to its end in bounded time; with 19 more it would be a seventieth.
const NICE: i32 = 10;

/// Starts a thread for such work.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || give_way(work))
}

/// Does such work on a thread of its own and waits for it; if the system gives none, on this one. Blocks.
pub(crate) fn run<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let (span, mut work) = (Span::current(), Some(work));
    let done = thread::scope(|scope| {
        let work = &mut work;
        let step = move || work.take().map(|work| span.in_scope(|| give_way(work)));
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, step).ok()?;
        // A panic goes on in whoever waits.
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    done.unwrap_or_else(|| work.take().expect("no thread took it")())
}

fn give_way<T>(work: impl FnOnce() -> T) -> T {
    match lower() {
        Ok(nice) => tracing::debug!(nice, "a thread of the background gives way to requests"),
        Err(error) => {
            tracing::debug!(%error, "a thread of the background has the priority of requests: the system refuses another");
        }
    }
    work()
}

/// Raises the nice value of this thread, counted from the server's own, however often it is called.
fn lower() -> rustix::io::Result<i32> {
    let of_server = rustix::process::getpriority_process(Some(rustix::process::getpid()))?;
    let nice = of_server.saturating_add(NICE).min(19);
    rustix::process::setpriority_process(None, nice).map(|()| nice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn only_threads_of_the_background_give_way() {
        let own = nice();
        let nested = || run("second", nice);
        assert_eq!(run("first", || (nice(), nested())), ((own + NICE).min(19), (own + NICE).min(19)));
        assert_eq!(spawn("third", nice).unwrap().join().unwrap(), (own + NICE).min(19));
        assert_eq!(nice(), own);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let outcome = std::panic::catch_unwind(|| run("panics", || -> u8 { panic!("as it should") }));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"as it should"));
    }
}
