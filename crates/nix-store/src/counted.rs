//! A stream that counts.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A stream, and how many bytes came through it.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: UnixStream,
    received: u64,
}

impl Counted {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: 0 }
    }

    /// Returns how many bytes came so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        self.received = self.received.saturating_add(len as u64);
        Ok(len)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
