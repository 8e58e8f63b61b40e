//! What upstreams said of paths: remembered for a while, the absent ones too, and asked once for all who wait for it.

use std::sync::Arc;
use std::time::Duration;

use firn_index::UnixSeconds;
use firn_nix::{NarInfo, StoreHash};
use quick_cache::Weighter;
use quick_cache::sync::Cache as Lru;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::way::Way;
use crate::app::App;
use crate::caches::Cache;
use crate::config::UpstreamConfig;
use crate::upstream::{Said, Upstream};

/// The memory for answers, in bytes.
const BYTES: u64 = 32 << 20;
/// What an entry takes beside its references.
const ENTRY_BYTES: u64 = 900;
/// How many questions are under way at once; further ones wait.
const QUESTIONS: usize = 128;
/// How many of other caches' questions are passed on at once. Further ones are not: whoever waited here might be waited for.
const PASSED_ON: usize = 128;
/// For how many seconds nobody asks again when no upstream could be asked: those who wait already are spared their timeouts.
const TROUBLE_SECONDS: u64 = 5;

/// A path that an upstream has.
pub(super) struct Offer {
    /// What it says of it, with no signatures but those of its keys.
    pub(super) info: NarInfo,
    /// Who.
    pub(super) upstream: Arc<Upstream>,
}

/// A cache as it is set now, and a path.
type Key = (u64, StoreHash);

#[derive(Clone)]
struct Answer {
    offer: Option<Arc<Offer>>,
    until: UnixSeconds,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Answer> for Weight {
    fn weight(&self, _: &Key, answer: &Answer) -> u64 {
        answer.offer.as_ref().map_or(100, |offer| ENTRY_BYTES + 100 * offer.info.references.len() as u64)
    }
}

/// What upstreams said.
pub(super) struct Answers {
    kept: Lru<Key, Answer, Weight>,
    questions: Semaphore,
    passed_on: Semaphore,
    positive_seconds: u64,
    negative_seconds: u64,
    patience: Duration,
}

impl Answers {
    pub(super) fn new(config: &UpstreamConfig) -> Self {
        Self {
            kept: Lru::with_weighter(32_768, BYTES, Weight),
            questions: Semaphore::new(QUESTIONS),
            passed_on: Semaphore::new(PASSED_ON),
            positive_seconds: config.positive_ttl.0.as_secs(),
            negative_seconds: config.negative_ttl.0.as_secs(),
            patience: config.answer_timeout.0,
        }
    }

    /// Returns which of a cache's upstreams has a path, asking them unless that is remembered. `None` if none has it, or
    /// none can be asked: an upstream in trouble is as good as none.
    pub(super) async fn ask(&self, app: &App, cache: &Arc<Cache>, hash: &StoreHash, way: &Way) -> Option<Arc<Offer>> {
        if cache.proxies.is_empty() {
            return None;
        }
        let key = (cache.generation, *hash);
        if !way.is_first {
            return self.pass_on(app, cache, key, way).await;
        }
        loop {
            match self.kept.get_value_or_guard_async(&key).await {
                Ok(answer) if answer.until > app.now() => return answer.offer,
                // Another may have put a newer one there since.
                Ok(_) => _ = self.kept.remove_if(&key, |answer| answer.until <= app.now()),
                Err(place) => {
                    // When the client leaves, this future goes, and the next one who waits asks.
                    let answer = self.question(app, cache, hash, way).await;
                    let offer = answer.offer.clone();
                    let _ = place.insert(answer);
                    return offer;
                }
            }
        }
    }

    /// Asks for another cache. It does not join a question that is under way, which may be waiting for the one that asks;
    /// and that nobody has a path is not remembered, since those on the way were not asked.
    async fn pass_on(&self, app: &App, cache: &Arc<Cache>, key: Key, way: &Way) -> Option<Arc<Offer>> {
        if let Some(answer) = self.kept.get(&key).filter(|answer| answer.until > app.now()) {
            return answer.offer;
        }
        let _turn = self.passed_on.try_acquire().ok()?;
        let found = tokio::time::timeout(self.patience, ask_all(cache, &key.1, app.now(), way)).await;
        let Ok(Found::Has(offer)) = found else { return None };
        let until = app.now().saturating_add(self.positive_seconds);
        self.kept.insert(key, Answer { offer: Some(Arc::clone(&offer)), until });
        Some(offer)
    }

    /// Remembers that an upstream does not have after all what it said that it had, or has something else.
    pub(super) fn refute(&self, cache: &Cache, hash: &StoreHash, now: UnixSeconds) {
        let until = now.saturating_add(self.negative_seconds);
        self.kept.insert((cache.generation, *hash), Answer { offer: None, until });
    }

    async fn question(&self, app: &App, cache: &Arc<Cache>, hash: &StoreHash, way: &Way) -> Answer {
        let work = async {
            let _turn = self.questions.acquire().await.ok()?;
            Some(ask_all(cache, hash, app.now(), way).await)
        };
        let found = tokio::time::timeout(self.patience, work).await.ok().flatten();
        let now = app.now();
        match found {
            Some(Found::Has(offer)) => Answer { offer: Some(offer), until: now.saturating_add(self.positive_seconds) },
            Some(Found::Nobody) => Answer { offer: None, until: now.saturating_add(self.negative_seconds) },
            Some(Found::Trouble) | None => {
                let seconds = TROUBLE_SECONDS.min(self.negative_seconds);
                Answer { offer: None, until: now.saturating_add(seconds) }
            }
        }
    }
}

enum Found {
    Has(Arc<Offer>),
    /// All were asked.
    Nobody,
    /// Some could not be asked, and no other has it.
    Trouble,
}

/// Asks upstreams by their priorities, those of the same number at once: the first one that has the path counts.
async fn ask_all(cache: &Arc<Cache>, hash: &StoreHash, now: UnixSeconds, way: &Way) -> Found {
    let mut is_troubled = false;
    for group in cache.proxies.chunk_by(|a, b| a.row.priority == b.row.priority) {
        let mut asked = JoinSet::new();
        for upstream in group.iter().map(Arc::clone) {
            let (cache, hash, via) = (Arc::clone(cache), *hash, way.via.clone());
            asked.spawn(async move {
                let said = upstream.narinfo(&hash, &cache.row.store_dir, now, &via).await;
                (upstream, said)
            });
        }
        // Dropped with the set, those who are slower are not waited for.
        while let Some(said) = asked.join_next().await {
            match said {
                Ok((upstream, Said::Has(info))) => return Found::Has(Arc::new(Offer { info: *info, upstream })),
                Ok((_, Said::Not)) => {}
                Ok((_, Said::Trouble)) | Err(_) => is_troubled = true,
            }
        }
    }
    if is_troubled { Found::Trouble } else { Found::Nobody }
}
