//! One cache on one server: requests, tries, sessions. What is pushed and why is not known here.
//!
//! Every request of the API may be repeated: what fails in a way that may pass is tried again, until [`RetryPolicy`] says to
//! give up. Answers are read up to a limit that an honest server never reaches.

mod calls;
mod exchange;
mod http;
mod meter;
mod retry;
mod session;
mod target;
mod transport;

use std::sync::Arc;

use firn_api::{Agreement, Capabilities, negotiate};
use firn_chunk::ChunkerId;

pub use http::{HttpOptions, HttpTransport};
pub use meter::{Meter, Wire};
pub use retry::{Clock, Jitter, RetryPolicy, SystemClock, SystemJitter};
pub use target::{Target, Token};
pub use transport::{Body, Broken, BrokenKind, Reply, Request, Sending, Transport};

pub use exchange::Waiting;

use crate::{Error, Result};
use session::Sessions;

/// The fewest uncompressed bytes of a frame that a server has to take: a chunk has to fit.
const MIN_FRAME_BYTES: usize = ChunkerId::CURRENT.max as usize;

/// What a [`Remote`] does besides carrying requests.
#[derive(Clone)]
pub struct RemoteOptions {
    /// When requests are tried again.
    pub retry: RetryPolicy,
    /// Spreads the tries.
    pub jitter: Arc<dyn Jitter>,
    /// What dates in `Retry-After` are compared with.
    pub clock: Arc<dyn Clock>,
    /// Is told of each wait before another try.
    pub on_wait: Arc<dyn Fn(&Waiting) + Send + Sync>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            jitter: Arc::new(SystemJitter),
            clock: Arc::new(SystemClock),
            on_wait: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteOptions").field("retry", &self.retry).finish_non_exhaustive()
    }
}

/// One cache on one server.
pub struct Remote {
    target: Target,
    transport: Arc<dyn Transport>,
    meter: Arc<Meter>,
    options: RemoteOptions,
    sessions: Sessions,
    capabilities: Capabilities,
    agreement: Agreement,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Remote {
    /// Asks a server over HTTP what it can do, and returns the connection if we can work together.
    ///
    /// # Errors
    /// As [`Self::connect_by`], and [`Error::Setup`].
    pub async fn connect(target: Target, http: &HttpOptions, options: RemoteOptions) -> Result<Self> {
        let meter = Arc::new(Meter::default());
        let transport = HttpTransport::new(&target, http, meter.clone())?;
        Self::connect_by(target, Box::new(transport), meter, options).await
    }

    /// Asks a server what it can do over any transport, and returns the connection if we can work together.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::Nonsense`] where it is no firnd that answers, [`Error::Mismatch`].
    pub async fn connect_by(
        target: Target,
        transport: Box<dyn Transport>,
        meter: Arc<Meter>,
        options: RemoteOptions,
    ) -> Result<Self> {
        let sessions = Sessions::default();
        let unknown = Agreement { version: firn_api::VERSION, limits: firn_api::Limits::default(), takes_hints: false };
        let capabilities = Capabilities::current(String::new(), ChunkerId::CURRENT);
        let transport = Arc::from(transport);
        let mut remote = Self { target, transport, meter, options, sessions, capabilities, agreement: unknown };
        remote.capabilities = remote.ask_capabilities().await?;
        remote.agreement = negotiate(&remote.capabilities, ChunkerId::CURRENT)?;
        let limits = &remote.agreement.limits;
        if limits.frame_raw_bytes < MIN_FRAME_BYTES || limits.body_bytes < 2 * MIN_FRAME_BYTES {
            return Err(remote.nonsense("capabilities", "its limits leave no room for a chunk"));
        }
        Ok(remote)
    }

    /// Returns the same with a session of its own, for what goes on beside.
    #[must_use]
    pub fn with_own_session(&self) -> Self {
        Self {
            target: self.target.clone(),
            transport: self.transport.clone(),
            meter: self.meter.clone(),
            options: self.options.clone(),
            sessions: Sessions::default(),
            capabilities: self.capabilities.clone(),
            agreement: self.agreement,
        }
    }

    /// Returns which cache this is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns what the server said of itself.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Returns how much a request may hold.
    #[must_use]
    pub fn limits(&self) -> &firn_api::Limits {
        &self.agreement.limits
    }

    /// Returns whether frames may come with hints.
    #[must_use]
    pub fn takes_hints(&self) -> bool {
        self.agreement.takes_hints
    }

    /// Returns what went over the wire so far.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.meter.wire()
    }

    /// Returns how long to wait before something is tried again that failed `tries` times.
    pub(crate) fn pause(&self, tries: u32) -> std::time::Duration {
        self.options.retry.wait(tries, None, &*self.options.jitter)
    }

    pub(crate) fn nonsense(&self, doing: &'static str, detail: impl Into<String>) -> Error {
        Error::Nonsense { doing, server: self.target.base().to_owned(), detail: detail.into() }
    }
}

#[cfg(test)]
mod tests;
