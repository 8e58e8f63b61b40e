//! How many paths are in which stage, so that a batch is not held open for nobody.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What a path is doing. A batch of one stage can grow only by paths in earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It is being read and cut, or is about to be.
    Cut,
    /// It waits to hear whether its recipe is known.
    Recipe,
    /// It waits to hear which chunks are missing.
    Chunks,
    /// Its missing chunks are gathered.
    Gather,
    /// Its chunks are made frames.
    Encode,
    /// Its frames are on their way.
    Send,
}

const STAGES: usize = Stage::Send as usize + 1;

#[derive(Debug, Default)]
struct Counts {
    in_stage: [usize; STAGES],
    /// Paths that can't go on for want of memory, which only a batch that goes can free.
    starving: usize,
}

/// Counts paths in stages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<(Mutex<Counts>, Notify)>);

/// A path's presence in a stage, until dropped.
#[derive(Debug)]
pub(crate) struct Present(Pulse, Stage);

/// That somebody can't go on for want of memory, until dropped.
#[derive(Debug)]
pub(crate) struct Starving(Pulse);

impl Pulse {
    /// Counts somebody in a stage.
    pub(crate) fn enter(&self, stage: Stage) -> Present {
        self.change(|counts| counts.in_stage[stage as usize] += 1);
        Present(self.clone(), stage)
    }

    /// Counts somebody who has to wait for memory.
    pub(crate) fn starve(&self) -> Starving {
        self.change(|counts| counts.starving += 1);
        Starving(self.clone())
    }

    /// Waits until nobody is in a stage before this one, or somebody waits for memory.
    pub(crate) async fn quiet_before(&self, stage: Stage) {
        self.wait(|counts| counts.starving > 0 || counts.before(stage) == 0).await;
    }

    /// Waits until nobody is in any stage.
    pub(crate) async fn silent(&self) {
        self.wait(|counts| counts.in_stage.iter().sum::<usize>() == 0).await;
    }

    async fn wait(&self, is_so: impl Fn(&Counts) -> bool) {
        let (counts, changed) = &*self.0;
        loop {
            let mut change = std::pin::pin!(changed.notified());
            change.as_mut().enable();
            if is_so(&counts.lock().unwrap_or_else(PoisonError::into_inner)) {
                return;
            }
            change.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let (counts, changed) = &*self.0;
        change(&mut counts.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_waiters();
    }
}

impl Present {
    /// Counts it in another stage from now on.
    pub(crate) fn move_to(&mut self, stage: Stage) {
        let from = std::mem::replace(&mut self.1, stage);
        self.0.change(|counts| {
            counts.in_stage[from as usize] -= 1;
            counts.in_stage[stage as usize] += 1;
        });
    }
}

impl Counts {
    fn before(&self, stage: Stage) -> usize {
        self.in_stage.iter().take(stage as usize).sum()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let stage = self.1;
        self.0.change(|counts| counts.in_stage[stage as usize] -= 1);
    }
}

impl Drop for Starving {
    fn drop(&mut self) {
        self.0.change(|counts| counts.starving -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_quiet(pulse: &Pulse, stage: Stage) -> bool {
        timeout(Duration::from_secs(1), pulse.quiet_before(stage)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_earlier_stages_and_no_hunger_hold_a_batch_open() {
        let pulse = Pulse::default();
        assert!(is_quiet(&pulse, Stage::Send).await);
        let here = pulse.enter(Stage::Chunks);
        assert!(is_quiet(&pulse, Stage::Chunks).await);
        assert!(!is_quiet(&pulse, Stage::Gather).await);
        let hungry = pulse.starve();
        assert!(is_quiet(&pulse, Stage::Gather).await);
        assert!(timeout(Duration::from_secs(1), pulse.silent()).await.is_err());
        drop(hungry);
        assert!(!is_quiet(&pulse, Stage::Gather).await);
        let quiet = tokio::spawn({
            let pulse = pulse.clone();
            async move { pulse.quiet_before(Stage::Gather).await }
        });
        tokio::task::yield_now().await;
        drop(here);
        quiet.await.unwrap();
        pulse.silent().await;
    }
}
