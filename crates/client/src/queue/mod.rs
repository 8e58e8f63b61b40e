//! What a builder still has to push, kept on disk.
//!
//! [`Queue`] is one SQLite database (WAL, `synchronous = FULL`) in a directory of its own: paths that wait, dead letters,
//! paths that were lost, counters, and the cursor over Nix's database. The cursor advances in the transaction that takes
//! in what it passed, so nothing between the two databases can be forgotten, whenever the process dies. One process owns
//! a queue at a time, held by a lock on `queue.lock`; others may read with [`Reader`]. [`Spool`] is where the hook leaves
//! paths while nobody owns the queue.
//!
//! Left to others: what is worth pushing, when, and the clock. Every time is an argument, in milliseconds since 1970.
//!
//! ```
//! use firn_client::queue::{Intake, NewEntry, Queue, Source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let mut queue = Queue::open(directory.path())?;
//! let path = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-hello".parse()?;
//! queue.take_in(&Intake { entries: vec![NewEntry { path, nar_bytes: 600, source: Source::Cursor }], ..Intake::at(1) })?;
//! assert_eq!(queue.read().due(1, 10)?.len(), 1);
//! # Ok(())
//! # }
//! ```

mod entry;
mod error;
mod read;
mod schema;
mod spool;
mod write;

#[cfg(test)]
mod tests;

pub use entry::{Counter, Cursor, Entry, Lost, NewEntry, Settled, Source, State, Totals, Verdict, Witness};
pub use error::{Error, Result};
pub use read::Reader;
pub use spool::{MAX_SPOOL_BYTES, Spool, Spooled};
pub use write::{DeadLetters, Intake, MAX_LOST, MAX_WAIT_MILLIS, Queue, Taken};
