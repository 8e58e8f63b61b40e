//! A guard against fragmentation: sharing chunks must not make a NAR slow to restore.
//!
//! A restore decodes whole frames. Chunks that lie in many different ones, one here and one there, cost up to sixteen times their own
//! bytes. Where the last chunks of an upload were found in too many frames, the next ones are stored again, one behind the other,
//! until that is over. Later uploads of the same content then find the new copies.

use std::collections::{HashMap, VecDeque};

use firn_pack::FrameLoc;

/// How many chunks are looked back at: about 2 MiB.
const WINDOW: usize = 32;

/// Different frames within the window from which on chunks are stored again.
const SCATTERED: usize = 24;

/// Different frames at which sharing begins again; far enough from the other limit that it does not go to and fro.
const GATHERED: usize = 12;

/// The frames of the last chunks of an upload.
#[derive(Default)]
pub(crate) struct Scatter {
    window: VecDeque<Option<FrameLoc>>,
    frames: HashMap<FrameLoc, usize>,
    is_scattered: bool,
    /// Where the last chunk was found.
    last: Option<FrameLoc>,
}

impl Scatter {
    /// Returns whether the next chunk, found in a frame, may be shared whatever comes behind it. If not, it may be where
    /// the chunk behind it [`follows`]: what was stored again once is in order, and must not be stored another time.
    pub(crate) fn may_share(&self, frame: FrameLoc) -> bool {
        !self.is_scattered || self.last.is_some_and(|last| follows(last, frame))
    }

    /// Takes note of where the next chunk was found, if it was.
    pub(crate) fn note(&mut self, found: Option<FrameLoc>) {
        if self.window.len() == WINDOW {
            self.forget_oldest();
        }
        // While chunks are stored again, or have been by an earlier upload, they are in order.
        let scattered = found.filter(|_| !self.is_scattered);
        self.window.push_back(scattered);
        if let Some(frame) = scattered {
            *self.frames.entry(frame).or_default() += 1;
        }
        self.last = found;
        let limit = if self.is_scattered { GATHERED } else { SCATTERED };
        self.is_scattered = self.frames.len() > limit;
    }

    fn forget_oldest(&mut self) {
        let Some(Some(oldest)) = self.window.pop_front() else { return };
        if let Some(count) = self.frames.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.frames.remove(&oldest);
            }
        }
    }
}

/// Returns whether a frame is another one, or lies right behind it.
pub(crate) fn follows(before: FrameLoc, frame: FrameLoc) -> bool {
    before == frame || (before.pack == frame.pack && before.offset.checked_add(before.len.into()) == Some(frame.offset))
}

#[cfg(test)]
mod tests {
    use firn_pack::PackId;

    use super::*;

    /// Returns frames of which none follows another.
    fn frame(n: u64) -> FrameLoc {
        FrameLoc { pack: PackId([0; 16]), offset: n * 10, len: 1 }
    }

    /// Takes note of a chunk that was found in a frame, and returns whether it may be shared.
    fn next(scatter: &mut Scatter, frame: FrameLoc) -> bool {
        let may_share = scatter.may_share(frame);
        scatter.note(Some(frame));
        may_share
    }

    #[test]
    fn chunks_of_few_frames_are_shared() {
        let mut scatter = Scatter::default();
        assert!((0..1000).all(|n| next(&mut scatter, frame(n / 3))));
    }

    #[test]
    fn chunks_of_many_frames_are_stored_again_until_the_window_is_calm() {
        let mut scatter = Scatter::default();
        let mut frames = (0..).map(frame);
        let shared = frames.by_ref().take_while(|&frame| next(&mut scatter, frame)).count();
        assert_eq!(shared, SCATTERED + 1);
        // Not counting the one that ended the line above. The window still has seven free places, and twelve frames may
        // stay in it.
        let stored_again = frames.take_while(|&frame| !next(&mut scatter, frame)).count();
        assert_eq!(stored_again + 1, (WINDOW - SCATTERED - 1) + (SCATTERED + 1 - GATHERED));
    }

    #[test]
    fn what_is_in_order_is_shared_also_where_the_window_is_not_calm() {
        let mut scatter = Scatter::default();
        let _ = (0..).map(frame).take_while(|&frame| next(&mut scatter, frame)).count();
        let first = FrameLoc { pack: PackId([1; 16]), offset: 0, len: 7 };
        let second = FrameLoc { offset: 7, ..first };
        assert!(!next(&mut scatter, first), "it may yet be alone");
        assert!(next(&mut scatter, first));
        assert!(next(&mut scatter, second));
        assert!(!next(&mut scatter, FrameLoc { offset: 15, ..first }));
        assert!(!next(&mut scatter, FrameLoc { pack: PackId([2; 16]), offset: 22, len: 7 }));
    }
}
