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
}

impl Scatter {
    /// Returns whether the next chunk may be shared with frames that were there before.
    pub(crate) fn may_share(&self) -> bool {
        !self.is_scattered
    }

    /// Takes note of where the next chunk lies: in a frame that was there before, or (`None`) in the upload's own ones.
    pub(crate) fn note(&mut self, frame: Option<FrameLoc>) {
        if self.window.len() == WINDOW {
            self.forget_oldest();
        }
        self.window.push_back(frame);
        if let Some(frame) = frame {
            *self.frames.entry(frame).or_default() += 1;
        }
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

#[cfg(test)]
mod tests {
    use firn_pack::PackId;

    use super::*;

    fn frame(n: u64) -> FrameLoc {
        FrameLoc { pack: PackId([0; 16]), offset: n, len: 1 }
    }

    #[test]
    fn chunks_of_few_frames_are_shared() {
        let mut scatter = Scatter::default();
        for n in 0..1000 {
            scatter.note(Some(frame(n / 3)));
            assert!(scatter.may_share());
        }
    }

    #[test]
    fn chunks_of_many_frames_are_stored_again_until_the_window_is_calm() {
        let mut scatter = Scatter::default();
        let shared = (0..).take_while(|&n| {
            scatter.note(Some(frame(n)));
            scatter.may_share()
        });
        assert_eq!(shared.count(), SCATTERED);
        let stored_again = std::iter::repeat_with(|| {
            scatter.note(None);
            scatter.may_share()
        });
        // The window still has seven free places, and twelve frames may stay in it.
        let expected = (WINDOW - SCATTERED - 1) + (SCATTERED + 1 - GATHERED) - 1;
        assert_eq!(stored_again.take_while(|may| !may).count(), expected);
    }
}
