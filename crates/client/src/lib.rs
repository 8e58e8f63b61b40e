//! Push as a library: what a cache lacks of some store paths is found out, cut into chunks and sent.
//!
//! [`remote`] speaks with one cache on one server, [`plan`] decides what is to be pushed, [`push`] does it, [`queue`] remembers
//! what is still to do, and [`agent`] does it all as a builder's store grows. It knows no terminal: what happens is told as
//! [`push::Event`]s.

pub mod agent;
mod error;
pub mod plan;
pub mod push;
pub mod queue;
pub mod remote;

pub use error::{Error, Refusal, Result};
