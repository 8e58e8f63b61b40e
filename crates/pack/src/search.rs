//! The next whole frame behind a place where none begins.

use std::io;

use crate::footer::read_exactly;
use crate::frame::{Fixed, Header};
use crate::layout::{FRAME_FIXED_LEN, FRAME_MAGIC, checksum, position, size};
use crate::{Error, Result};

/// Bytes that are looked through at a time.
const WINDOW: u64 = 256 << 10;

/// How many bytes may be read again for each byte that is looked through: what looks like a header is read to see whether it is one.
const AGAIN: u64 = 8;

/// Looks for frames where it is not known that one begins. All searches of one object together read at most ten times its length.
pub(crate) struct Search {
    budget: u64,
}

impl Search {
    pub(crate) fn new(object_len: u64) -> Self {
        Self { budget: object_len.saturating_mul(AGAIN) }
    }

    /// Returns where the next whole frame begins that ends before `end`: its header and its payload are right. No frame begins
    /// at `from`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a frame of a newer firn, [`Error::Read`] when `read` fails.
    pub(crate) fn next<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        from: u64,
        end: u64,
    ) -> Result<Option<u64>> {
        // What the damaged header says may be true, and what looks like a frame inside of another one is none.
        if let Some(next) = claimed_end(read, from, end)?
            && self.is_frame(read, next, end)?
        {
            return Ok(Some(next));
        }
        let mut at = from.saturating_add(1);
        while end.saturating_sub(at) >= position(FRAME_FIXED_LEN) && self.budget > 0 {
            let len = WINDOW.min(end - at);
            let window = read_exactly(read, at, len)?;
            for (skip, bytes) in (0..).zip(window.as_ref().windows(FRAME_MAGIC.len())) {
                if *bytes == FRAME_MAGIC && self.is_frame(read, at + skip, end)? {
                    return Ok(Some(at + skip));
                }
            }
            // A magic may lie across the border.
            at += len.saturating_sub(position(FRAME_MAGIC.len() - 1)).max(1);
        }
        Ok(None)
    }

    /// Returns whether a whole frame begins at a place and ends before `end`.
    fn is_frame<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        at: u64,
        end: u64,
    ) -> Result<bool> {
        let Some(fixed) = fixed_at(read, at, end)? else { return Ok(false) };
        if end - at < u64::from(fixed.frame_len()) || !self.spend(fixed.header_len) {
            return Ok(false);
        }
        match Header::parse(read_exactly(read, at, fixed.header_len.into())?.as_ref()) {
            Err(Error::Corrupt { .. }) => return Ok(false),
            other => other?,
        };
        if !self.spend(fixed.frame_len()) {
            return Ok(false);
        }
        let frame = read_exactly(read, at, fixed.frame_len().into())?;
        let payload = frame.as_ref().get(size(fixed.header_len)..).unwrap_or_default();
        Ok(checksum(payload) == fixed.payload_checksum)
    }

    fn spend(&mut self, bytes: u32) -> bool {
        let left = self.budget.checked_sub(bytes.into());
        self.budget = left.unwrap_or(0);
        left.is_some()
    }
}

/// Returns whether the right header of a frame is at a place and leads past `end`: the frame was torn there.
pub(crate) fn is_torn<B: AsRef<[u8]>>(read: &impl Fn(u64, usize) -> io::Result<B>, at: u64, end: u64) -> Result<bool> {
    let Some(fixed) = fixed_at(read, at, end)? else { return Ok(false) };
    if end - at < u64::from(fixed.header_len) || end - at >= u64::from(fixed.frame_len()) {
        return Ok(false);
    }
    match Header::parse(read_exactly(read, at, fixed.header_len.into())?.as_ref()) {
        Err(Error::Corrupt { .. }) => Ok(false),
        other => other.map(|_| true),
    }
}

fn claimed_end<B: AsRef<[u8]>>(read: &impl Fn(u64, usize) -> io::Result<B>, at: u64, end: u64) -> Result<Option<u64>> {
    Ok(fixed_at(read, at, end)?.map(|fixed| at + u64::from(fixed.frame_len())))
}

/// Returns the fixed part of a header, if its numbers are within limits.
fn fixed_at<B: AsRef<[u8]>>(read: &impl Fn(u64, usize) -> io::Result<B>, at: u64, end: u64) -> Result<Option<Fixed>> {
    if end.saturating_sub(at) < position(FRAME_FIXED_LEN) {
        return Ok(None);
    }
    Ok(Fixed::parse(read_exactly(read, at, position(FRAME_FIXED_LEN))?.as_ref()).ok())
}
