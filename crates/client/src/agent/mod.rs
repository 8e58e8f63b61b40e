//! An agent that pushes everything that a builder builds, and forgets nothing.
//!
//! The truth is a cursor over Nix's database ([`crate::queue::Cursor`]): hooks, file events and timers are hints that only
//! make it look sooner. What it finds is pinned against Nix's garbage collector, then queued in the transaction that moves the
//! cursor, then asked for in bulk, then pushed with everything that it refers to. A path fails alone; what may pass is tried
//! again for ever, what may not becomes a dead letter, and what was collected before its turn is counted and named.
//!
//! [`Agent`] runs its loops over a [`Store`] and a [`Pusher`], with a clock and randomness that are given to it.
//! [`Handle`] and [`ControlSocket`] let others speak with it, [`call`] speaks with one. Left to others: arguments, signals,
//! the service manager, file events.

mod backoff;
mod control;
mod desk;
mod error;
mod filter;
mod handle;
mod intake;
mod lane;
mod listener;
mod metrics;
mod pins;
mod pusher;
mod remote_pusher;
mod round;
mod service;
mod status;
mod store;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use control::{Answer, CallError, Flushed, MAX_LINE_BYTES, Request, call};
pub use error::{Error, Result};
pub use filter::{Filter, UpstreamKeys};
pub use handle::Handle;
pub use intake::Start;
pub use listener::ControlSocket;
pub use metrics::metrics;
pub use pins::PinLimits;
pub use pusher::{Outcome, Pusher, Trouble};
pub use remote_pusher::{GiveTarget, RemotePusher, Upstreams};
pub use service::{Agent, Settings};
pub use status::{Activity, DeadLetter, LostPath, Status};
pub use store::{NixStore, Page, Pinner, Store};
