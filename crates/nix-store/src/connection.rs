//! A connection to a program of Nix's: what is sent and received, until something goes wrong.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::counted::Counted;
use crate::daemon::wire::{ReadError, ReadResult};
use crate::nar_stream::{self, Broken};
use crate::{Error, Result};

/// A connection of which every call fails once one has: nobody knows where in the stream we are then.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<Counted>,
    /// Who is at the other end, as errors say it.
    peer: &'static str,
    lost: bool,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, peer: &'static str) -> Self {
        Self { stream: BufReader::with_capacity(64 << 10, Counted::new(stream)), peer, lost: false }
    }

    /// Returns how many bytes came so far.
    pub(crate) fn received(&self) -> u64 {
        self.stream.get_ref().received()
    }

    pub(crate) fn send(&mut self, doing: &'static str, bytes: &[u8]) -> Result<()> {
        if self.lost {
            return Err(Error::DaemonLost { doing, source: "the connection was lost before".into() });
        }
        self.stream.get_mut().write_all(bytes).map_err(|error| {
            self.lost = true;
            Error::DaemonLost { doing, source: error.into() }
        })
    }

    /// Reads something.
    pub(crate) fn receive<T>(
        &mut self,
        doing: &'static str,
        read: impl FnOnce(&mut BufReader<Counted>) -> ReadResult<T>,
    ) -> Result<T> {
        let peer = self.peer;
        read(&mut self.stream).map_err(|error| {
            self.lost = true;
            let source = match error {
                ReadError::Io(error) => error.into(),
                ReadError::Nonsense(what) => format!("{peer} sent {what}").into(),
            };
            Error::DaemonLost { doing, source }
        })
    }

    /// Reads a NAR, which has to have `size` bytes, and writes it to `out`.
    pub(crate) fn nar(&mut self, doing: &'static str, size: u64, out: &mut dyn Write) -> Result<()> {
        nar_stream::copy(&mut self.stream, size, out).map_err(|broken| {
            self.lost = true;
            match broken {
                Broken::Io(error) => Error::DaemonLost { doing, source: error.into() },
                Broken::Nar(what) => {
                    Error::DaemonLost { doing, source: format!("what came is no such NAR: {what}").into() }
                }
                Broken::Sink(source) => Error::Sink { source },
            }
        })
    }
}
