//! Gathers what many paths want to one request.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::pulse::{Pulse, Stage};

/// What a batch may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Only paths in earlier stages can add to it.
    pub(crate) stage: Stage,
    /// How much fits, in whatever unit items weigh. One item alone may weigh more.
    pub(crate) weight: usize,
    /// How long the first of a batch waits for others at most.
    pub(crate) longest: Duration,
}

/// Receives items in batches.
#[derive(Debug)]
pub(crate) struct Batches<T> {
    items: mpsc::Receiver<T>,
    /// What did not fit into the last batch.
    left: Option<T>,
    pulse: Pulse,
    window: Window,
}

impl<T> Batches<T> {
    /// Returns what receives from `items`.
    pub(crate) fn new(items: mpsc::Receiver<T>, pulse: Pulse, window: Window) -> Self {
        Self { items, left: None, pulse, window }
    }

    /// Returns the next items, at least one, or `None` when no more can come. A batch ends when it is full, when nobody can add
    /// to it soon, or when its first item has waited long enough.
    pub(crate) async fn next(&mut self, weigh: impl Fn(&T) -> usize) -> Option<Vec<T>> {
        let first = match self.left.take() {
            Some(item) => item,
            None => self.items.recv().await?,
        };
        let deadline = Instant::now() + self.window.longest;
        let mut weight = weigh(&first);
        let mut batch = vec![first];
        let pulse = self.pulse.clone();
        let mut quiet = std::pin::pin!(pulse.quiet_before(self.window.stage));
        loop {
            // What is there already is taken before anything else is looked at.
            let item = tokio::select! {
                biased;
                item = self.items.recv() => item,
                () = &mut quiet => None,
                () = sleep_until(deadline) => None,
            };
            let Some(item) = item else { return Some(batch) };
            weight = weight.saturating_add(weigh(&item));
            if weight > self.window.weight {
                self.left = Some(item);
                return Some(batch);
            }
            batch.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(pulse: &Pulse) -> (mpsc::Sender<usize>, Batches<usize>) {
        let (send, receive) = mpsc::channel(99);
        let window = Window { stage: Stage::Recipe, weight: 10, longest: Duration::from_millis(250) };
        (send, Batches::new(receive, pulse.clone(), window))
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_nobody_can_add_or_it_is_time() {
        let pulse = Pulse::default();
        let (send, mut batches) = batches(&pulse);
        for weight in [4, 5, 2, 99, 1] {
            send.send(weight).await.unwrap();
        }
        let began = Instant::now();
        let weigh = |weight: &usize| *weight;
        assert_eq!(batches.next(weigh).await.unwrap(), [4, 5]);
        assert_eq!(batches.next(weigh).await.unwrap(), [2]);
        assert_eq!(batches.next(weigh).await.unwrap(), [99]);
        assert_eq!(batches.next(weigh).await.unwrap(), [1]);
        assert_eq!(began.elapsed(), Duration::ZERO);

        let busy = pulse.enter(Stage::Cut);
        send.send(3).await.unwrap();
        assert_eq!(batches.next(weigh).await.unwrap(), [3]);
        assert_eq!(began.elapsed(), Duration::from_millis(250));
        drop(busy);

        drop(send);
        assert_eq!(batches.next(weigh).await, None);
    }
}
