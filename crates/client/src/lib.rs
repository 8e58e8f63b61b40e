//! Push as a library.

pub mod queue;
