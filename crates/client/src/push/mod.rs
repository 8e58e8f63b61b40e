//! The pipeline: paths are read, cut, asked about, sent and committed, many at a time within one limit of memory.
//!
//! Each path is a task that goes through the stages of `pulse`. What tasks share: a budget of bytes, places for threads that
//! read, questions and frames and commits that are gathered to few requests, and a ledger of which chunks are on the server.
//! Nobody who waits for another path holds memory or a place, so longer paths and unlucky orders hold up nothing.

mod advance;
mod ask;
mod batch;
mod budget;
mod commit;
mod cut;
mod event;
mod failure;
mod frames;
mod graph;
mod ledger;
mod path;
mod pulse;
mod run;
#[cfg(test)]
pub(crate) mod samples;
mod source;
#[cfg(test)]
mod tests;

pub use event::{Event, OnEvent, Outcome, Summary, Totals};
pub use failure::PathFailure;
pub(crate) use run::{Memory, push_within};
pub use run::{PushOptions, push};
pub use source::{Source, SourceError, StoreSource};
