//! What happened, as the earlier index knows it: packs do not say.

use firn_index::{CacheName, Op, UsageKey};

use super::{PAGE, Rebuild};
use crate::Result;

impl Rebuild {
    /// Takes over who pushed which path, usage counters, sums of days, what scrubs found, how collections went, and with how much effort packs were
    /// compressed.
    pub(super) fn keep_history(&mut self) -> Result<()> {
        let Some(old) = self.old.clone() else { return Ok(()) };
        for cache in self.known_caches()? {
            self.keep_provenance(&cache)?;
        }
        let mut after = None;
        loop {
            let page = self.packs.meta.packs(after, PAGE)?;
            for (pack, _) in &page {
                let effort = old.effort(*pack)?;
                if effort > 0 {
                    self.write(Op::Effort(*pack, effort))?;
                }
            }
            match page.last() {
                Some((pack, _)) if page.len() == PAGE => after = Some(*pack),
                _ => break,
            }
        }
        self.commit()?;
        let mut after: Option<UsageKey> = None;
        loop {
            let page = old.usage(0, after.as_ref(), PAGE)?;
            self.packs.meta.add_usage(&page)?;
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        let report = old.last_report()?.unwrap_or_default();
        for (day, row) in old.summaries(0)? {
            self.packs.meta.put_summary(day, &row, &report)?;
        }
        self.packs.meta.set_scrub(&old.scrub()?)?;
        self.packs.meta.set_collection(&old.collection()?)?;
        Ok(())
    }

    fn keep_provenance(&mut self, cache: &CacheName) -> Result<()> {
        let Some(old) = self.old.clone() else { return Ok(()) };
        let mut after = None;
        loop {
            let page = self.packs.meta.paths(cache, after, PAGE)?;
            for (hash, _) in &page {
                let pushes = old.provenance(cache, hash)?.map(|row| row.pushes).unwrap_or_default();
                for push in pushes {
                    self.write(Op::Pushed(cache.clone(), *hash, push))?;
                }
            }
            match page.last() {
                Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                _ => return self.commit(),
            }
        }
    }
}
