//! File events of Nix's database, as hints that there is something to look at.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use inotify::{Inotify, WatchMask};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Room for some dozens of events; the rest is read the next time.
const BUFFER_BYTES: usize = 4096;

/// Calls back whenever files of the database in a folder change, until it is told to stop. What goes wrong costs only time.
pub(super) async fn watch(folder: &Path, stop: &CancellationToken, look: impl Fn()) {
    let changed = Arc::new(Notify::new());
    if let Err(error) = follow(folder, changed.clone()) {
        tracing::info!(%error, folder = %folder.display(), "no file events: new paths are found a few seconds later");
        return;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => look(),
        }
    }
}

/// Begins to follow a folder, in a thread that ends with the process: nothing can interrupt its read, and it holds nothing
/// that anybody waits for.
fn follow(folder: &Path, changed: Arc<Notify>) -> io::Result<()> {
    let mut inotify = Inotify::init()?;
    // The folder and not the file: the log is made anew whenever the last process closes the database.
    inotify.watches().add(folder, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
    let read = move || {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let events = match inotify.read_events_blocking(&mut buffer) {
                Ok(events) => events,
                Err(error) => {
                    tracing::info!(%error, "no more file events: new paths are found a few seconds later");
                    return;
                }
            };
            // An overflow has no name, and may be anything.
            let mut names = events.map(|event| event.name.map(|name| name.to_string_lossy().into_owned()));
            if names.any(|name| name.is_none_or(|name| name.starts_with("db.sqlite"))) {
                changed.notify_one();
            }
        }
    };
    thread::Builder::new().name("file-events".to_owned()).spawn(read).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn changes_of_the_database_wake_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let changed = Arc::new(Notify::new());
            follow(folder.path(), changed.clone()).unwrap();
            fs::write(folder.path().join("big-lock"), "x").unwrap();
            fs::write(folder.path().join("db.sqlite-wal"), "x").unwrap();
            let woken = tokio::time::timeout(Duration::from_secs(20), changed.notified()).await;
            assert!(woken.is_ok());
        });
        assert!(follow(&folder.path().join("none"), Arc::default()).is_err());
    }
}
