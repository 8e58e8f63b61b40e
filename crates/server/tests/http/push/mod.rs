//! The push API: what comes in, what is told to whom, what is refused.

mod access;
mod commits;
mod garbage;
mod pins;
mod support;
mod upstreams;
