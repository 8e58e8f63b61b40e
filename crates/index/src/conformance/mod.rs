//! The suites that every engine of the two traits must pass.
//!
//! A suite is given a closure that opens engines and panics where one breaks the trait's word. [`meta`] and
//! [`chunk_index`] ask for fresh engines only; [`durable_meta`] and [`durable_chunk_index`] also have what was
//! written opened again, after a clean end and after a crash. [`model`] compares an engine with the one in memory,
//! step by random step.

mod chunks;
mod commits;
mod contents;
mod deletions;
mod durable;
pub mod model;
mod moves;
mod packs;
pub mod samples;
mod sessions;
mod sources;
mod usage;

pub use chunks::{chunk_index, durable_chunk_index};
pub use durable::durable_meta;

use crate::{Meta, Result};

/// How a suite wants its next engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// One that holds nothing yet.
    Fresh,
    /// The last one again: it has been dropped before the call.
    Reopened,
    /// What a crash at this moment would leave of the last one, which is still open during the call.
    Crashed,
}

/// Checks everything about a [`Meta`] that can be seen without opening it again.
///
/// # Panics
/// Where the engine breaks the trait's word.
pub fn meta(fresh: &dyn Fn() -> Box<dyn Meta>) {
    for case in [
        packs::CASES,
        sessions::CASES,
        commits::CASES,
        moves::CASES,
        contents::CASES,
        deletions::CASES,
        usage::CASES,
        sources::CASES,
    ]
    .concat()
    {
        case(&*fresh());
    }
}

type Case = fn(&dyn Meta);

/// Returns what an operation that must succeed gave.
#[track_caller]
fn ok<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("unexpected error: {error}: {error:?}"),
    }
}
