//! Collections, explanations, deletions, pins.

use firn_engine::{Engine, PathDeletion};
use firn_index::{CacheName, PinName, PinRow, Uploader};
use firn_nix::{StoreHash, StorePath};

use super::execute::{Admin, invalid, store};
use super::{Answer, ExplainView, Failure, GcRequest, GcView, PinView};
use crate::app::App;
use crate::background;
use crate::collector::{Collector, Plan};

/// Collects garbage in a running server, which forgets the narinfos of what goes; `None` if a collection is under way.
pub fn collect(app: &App, plan: &Plan) -> firn_engine::Result<Option<GcView>> {
    let removed = |cache: &CacheName, paths: &[StoreHash]| forget(Some(app), cache, paths);
    background::run("firn-gc", || app.collector.run(&app.engine, plan, app.now(), &removed))
}

fn forget(app: Option<&App>, cache: &CacheName, paths: &[StoreHash]) {
    if let Some(app) = app {
        for hash in paths {
            app.http.forget_path(cache, hash);
        }
    }
}

impl Admin<'_> {
    pub(super) fn gc(&self, asked: &GcRequest) -> Result<Answer, Failure> {
        let configured = Plan::configured(self.gc);
        let plan = Plan {
            dry_run: asked.dry_run,
            grace_seconds: asked.grace_seconds.unwrap_or(configured.grace_seconds),
            repack_percent: configured.repack_percent,
            repack_bytes: asked.repack_bytes.unwrap_or(configured.repack_bytes),
            bytes_per_second: asked.bytes_per_second.unwrap_or(configured.bytes_per_second),
        };
        let done = match self.app {
            Some(app) => collect(app, &plan),
            None => Collector::default().run(self.engine()?, &plan, self.now, &|_, _| {}),
        };
        match done.map_err(store)? {
            Some(view) => Ok(Answer::Collected(Box::new(view))),
            None => Err(Failure::Busy { detail: "collect garbage: a collection is under way already".to_owned() }),
        }
    }

    pub(super) fn stop_gc(&self) -> Result<Answer, Failure> {
        let app = self.app.ok_or_else(|| invalid("stop a collection: no server runs".to_owned()))?;
        Ok(Answer::CollectionStopped { was_running: app.collector.stop() })
    }

    pub(super) fn explain(&self, cache: &str, path: &str) -> Result<Answer, Failure> {
        let (name, row) = self.find_cache(cache)?;
        let hash = parse_hash(path, &row.store_dir)?;
        let found = self.engine()?.explain(&name, &hash).map_err(store)?;
        let found = found.ok_or_else(|| Failure::NoSuchPath { path: path.to_owned() })?;
        Ok(Answer::Explained(Box::new(ExplainView::new(cache, found))))
    }

    pub(super) fn delete_path(&self, cache: &str, path: &str, referrers: bool) -> Result<Answer, Failure> {
        let (name, row) = self.find_cache(cache)?;
        let hash = parse_hash(path, &row.store_dir)?;
        let removed = |cache: &CacheName, paths: &[StoreHash]| forget(self.app, cache, paths);
        let outcome = self.engine()?.delete_path(&name, &hash, referrers, &removed).map_err(store)?;
        let refused = |detail: String| Err(invalid(format!("delete '{path}': {detail}")));
        match outcome {
            PathDeletion::Deleted(paths) => Ok(Answer::PathsDeleted(paths.iter().map(StorePath::base_name).collect())),
            PathDeletion::Missing => Err(Failure::NoSuchPath { path: path.to_owned() }),
            PathDeletion::Needed(by) => refused(format!(
                "{} paths refer to it, first {}; --referrers deletes them too",
                by.len(),
                by.first().map(StorePath::base_name).unwrap_or_default()
            )),
            PathDeletion::Pinned(pins) => {
                refused(format!("the pin '{}' keeps it; remove that first", pins.join("', '")))
            }
            PathDeletion::InUse(by) => Err(Failure::Busy {
                detail: format!("delete '{path}': {} was asked for at this moment; try again", by.base_name()),
            }),
        }
    }

    pub(super) fn add_pin(
        &self,
        cache: &str,
        name: &str,
        path: &str,
        expires_in: Option<u64>,
    ) -> Result<Answer, Failure> {
        let (cache, row) = self.find_cache(cache)?;
        let name: PinName = name.parse().map_err(invalid)?;
        let gone = || Failure::NoSuchPath { path: path.to_owned() };
        let found = self.meta.path(&cache, &parse_hash(path, &row.store_dir)?).map_err(store)?.ok_or_else(gone)?;
        let path = if path.parse::<StoreHash>().is_ok() { found.path } else { parse_path(path, &row.store_dir)? };
        let view =
            add_pin(self, &cache, &name, path, expires_in, Uploader { token: None, builder: "operator".into() })?;
        Ok(Answer::Pin(view))
    }

    pub(super) fn remove_pin(&self, cache: &str, name: &str) -> Result<Answer, Failure> {
        let (cache, _) = self.find_cache(cache)?;
        let none = || Failure::NoSuchPin { name: name.to_owned() };
        let parsed: PinName = name.parse().map_err(|_| none())?;
        let pins = self.meta.pins(&cache).map_err(store)?;
        let (_, row) = pins.iter().find(|(known, _)| *known == parsed).ok_or_else(none)?;
        self.meta.remove_pin(&cache, &parsed).map_err(store)?;
        Ok(Answer::PinRemoved(PinView::new(&parsed, row)))
    }

    pub(super) fn list_pins(&self, cache: &str) -> Result<Answer, Failure> {
        let (cache, _) = self.find_cache(cache)?;
        let pins = self.meta.pins(&cache).map_err(store)?;
        Ok(Answer::Pins(pins.iter().map(|(name, row)| PinView::new(name, row)).collect()))
    }

    pub(super) fn engine(&self) -> Result<&Engine, Failure> {
        let engine = self.engine.or(self.app.map(|app| &app.engine));
        engine.ok_or_else(|| Failure::Store { detail: "open the store: only its index is open".to_owned() })
    }
}

fn add_pin(
    admin: &Admin<'_>,
    cache: &CacheName,
    name: &PinName,
    path: StorePath,
    expires_in: Option<u64>,
    by: Uploader,
) -> Result<PinView, Failure> {
    if admin.meta.path(cache, &path.hash()).map_err(store)?.is_none_or(|row| row.path != path) {
        return Err(Failure::NoSuchPath { path: path.base_name() });
    }
    let expires_at = expires_in.map(|seconds| admin.now.saturating_add(seconds));
    let row = PinRow { path, pinned_at: admin.now, expires_at, by };
    if !admin.meta.put_pin(cache, name, &row).map_err(store)? {
        return Err(Failure::NoSuchCache { name: cache.to_string() });
    }
    Ok(PinView::new(name, &row))
}

fn parse_path(text: &str, store_dir: &str) -> Result<StorePath, Failure> {
    let name = text.strip_prefix(store_dir).map_or(text, |rest| rest.trim_start_matches('/'));
    StorePath::from_base_name(name.trim_end_matches('/'))
        .map_err(|_| invalid(format!("find '{text}': that is no store path of this cache; give {store_dir}/HASH-NAME")))
}

/// Reads a path, or a store hash alone.
fn parse_hash(text: &str, store_dir: &str) -> Result<StoreHash, Failure> {
    match text.parse() {
        Ok(hash) => Ok(hash),
        Err(_) => Ok(parse_path(text, store_dir)?.hash()),
    }
}
