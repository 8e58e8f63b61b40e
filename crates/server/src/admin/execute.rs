//! Doing what was asked. Callers see to it that two requests never run at once.

use std::error::Error as StdError;

use firn_engine::{Engine, Entropy};
use firn_index::{CacheName, CacheRow, Meta, PackState, TokenId, TokenRow, Totals, UnixSeconds};
use firn_nix::SecretKey;

use super::{Answer, CacheView, Contents, Failure, PacksView, Request, Settings, Status, keys};
use crate::app::App;
use crate::config::GcConfig;
use crate::data_dir::{DataDir, IndexFiles};
use crate::maintenance::Maintenance;
use crate::squeeze::{Pass, Squeezer};
use crate::usage::report::{self, Asked};

/// Rows that are read at once while counting.
const PAGE: usize = 1000;

/// The longest builder name, in bytes.
const MAX_BUILDER_BYTES: usize = 128;

/// What requests are executed on.
pub struct Admin<'a> {
    /// The truth.
    pub meta: &'a dyn Meta,
    /// The index's files, if they can be copied.
    pub index: Option<&'a IndexFiles>,
    /// The server that must learn of changes, if one runs.
    pub app: Option<&'a App>,
    /// The whole store, if it was opened without a server.
    pub engine: Option<&'a Engine>,
    /// How garbage is collected where the request does not say.
    pub gc: &'a GcConfig,
    /// Where the store is.
    pub data: &'a DataDir,
    /// How clients reach the server, without a final slash.
    pub base_url: &'a str,
    /// Where tokens and keys come from.
    pub entropy: &'a dyn Entropy,
    /// The time.
    pub now: UnixSeconds,
}

/// Does what a request asks. A change is durable, and known to the running server, when this returns.
pub fn execute(admin: &Admin<'_>, request: Request) -> Result<Answer, Failure> {
    match request {
        Request::CacheCreate { name, settings } => admin.create_cache(&name, &settings),
        Request::CacheList => admin.list_caches(),
        Request::CacheShow { name } => admin.show_cache(&name),
        Request::CacheSet { name, settings } => admin.set_cache(&name, &settings),
        Request::CacheDelete { name } => admin.delete_cache(&name),
        Request::UpstreamAdd { cache, upstream } => admin.add_upstream(&cache, *upstream),
        Request::UpstreamList { cache } => admin.list_upstreams(&cache),
        Request::UpstreamRemove { cache, url } => admin.remove_upstream(&cache, &url),
        Request::TokenCreate { grants, builder, expires_in } => admin.create_token(grants, builder, expires_in),
        Request::TokenList => admin.list_tokens(),
        Request::TokenRevoke { id } => admin.revoke_token(id),
        Request::Status => admin.status(),
        Request::Gc(asked) => admin.gc(&asked),
        Request::GcStop => admin.stop_gc(),
        Request::Explain { cache, path } => admin.explain(&cache, &path),
        Request::PathDelete { cache, path, referrers } => admin.delete_path(&cache, &path, referrers),
        Request::PinAdd { cache, name, path, expires_in } => admin.add_pin(&cache, &name, &path, expires_in),
        Request::PinRemove { cache, name } => admin.remove_pin(&cache, &name),
        Request::PinList { cache } => admin.list_pins(&cache),
        Request::ScrubStart { bytes_per_second } => admin.start_scrub(bytes_per_second),
        Request::ScrubStop => admin.stop_scrub(),
        Request::ScrubStatus => admin.scrub_status(),
        Request::BackupBegin => admin.begin_backup(),
        Request::BackupRenew { id } => admin.renew_backup(&id),
        Request::BackupEnd { id } => admin.end_backup(&id),
        Request::Export { files, compression } => admin.export(&files, compression),
        Request::Import { files } => admin.import(&files),
        Request::Squeeze { pass } => admin.squeeze(pass),
        Request::SqueezeStop => {
            let squeezer = admin.squeezer()?;
            squeezer.control().stop();
            Ok(Answer::Squeeze(squeezer.control().progress()))
        }
        Request::SqueezeProgress => Ok(Answer::Squeeze(admin.squeezer()?.control().progress())),
        Request::SourceAdd { name, settings } => admin.add_source(&name, &settings),
        Request::SourceSet { name, settings } => admin.set_source(&name, &settings),
        Request::SourceList => admin.list_sources(),
        Request::SourceShow { name } => admin.show_source(&name),
        Request::SourcePause { name, paused } => admin.pause_source(&name, paused),
        Request::SourceSync { name, full } => admin.sync_source(&name, full),
        Request::SourceRemove { name } => admin.remove_source(&name),
        Request::Usage { by, top, since, fresh } => admin.usage(Asked { by, top, since, fresh }),
    }
}

pub(super) fn store(error: impl StdError + 'static) -> Failure {
    Failure::Store { detail: crate::error_chain(&error) }
}

pub(super) fn invalid(detail: String) -> Failure {
    Failure::Invalid { detail }
}

/// Returns a private cache with a fresh key and every setting as it is when nobody says otherwise.
pub(crate) fn fresh_cache(name: &CacheName, now: UnixSeconds, entropy: &dyn Entropy) -> Result<CacheRow, Failure> {
    let settings = Settings { new_key: true, ..Settings::default() };
    // An earlier cache of this name had keys, of whose names nothing tells any more: a number that none of them had.
    let names = keys::Names { stem: name.as_str(), last: now };
    let signing_keys = keys::changed(&[], &settings, &names, entropy)?;
    Ok(CacheRow { signing_keys, ..CacheRow::new(now) })
}

fn parse_name(name: &str) -> Result<CacheName, Failure> {
    name.parse().map_err(invalid)
}

impl Admin<'_> {
    fn create_cache(&self, text: &str, settings: &Settings) -> Result<Answer, Failure> {
        let name = parse_name(text)?;
        if self.meta.cache(&name).map_err(store)?.is_some() {
            return Err(Failure::CacheExists { name: text.to_owned() });
        }
        let mut settings = settings.clone();
        settings.new_key |= settings.add_keys.is_empty();
        let mut fresh = CacheRow::new(self.now);
        if let Some(store_dir) = settings.store_dir.take() {
            fresh.store_dir = store_dir;
        }
        check_store_dir(&fresh.store_dir)?;
        let row = self.changed(&name, fresh, &settings)?;
        self.record_deletion(&name)?;
        self.write_cache(&name, &row)?;
        self.write_retention(&name, &settings)?;
        Ok(Answer::Cache(Box::new(self.view(&name, &row, Some(Contents::default()))?)))
    }

    /// Sees to it that packs tell that an earlier cache of this name was deleted before there is another: the record would
    /// take along what that one holds.
    fn record_deletion(&self, name: &CacheName) -> Result<(), Failure> {
        if !self.meta.deleted_caches().map_err(store)?.contains(name) {
            return Ok(());
        }
        let untold = |why: &str| Failure::Busy {
            detail: format!(
                "create the cache '{name}': an earlier one of this name was deleted, which can't be written to packs \
                 yet ({why}): make room, and try again"
            ),
        };
        match self.app.map(|app| &app.engine).or(self.engine).map(Engine::record_deleted_caches) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(untold(&crate::error_chain(&error))),
            None => Err(untold("the store is not open")),
        }
    }

    fn set_cache(&self, text: &str, settings: &Settings) -> Result<Answer, Failure> {
        let (name, row) = self.find_cache(text)?;
        if settings.store_dir.is_some() {
            return Err(invalid("change the store directory: it is fixed when a cache is made".to_owned()));
        }
        let row = self.changed(&name, row, settings)?;
        self.write_cache(&name, &row)?;
        self.write_retention(&name, settings)?;
        Ok(Answer::Cache(Box::new(self.view(&name, &row, None)?)))
    }

    fn changed(&self, name: &CacheName, mut row: CacheRow, settings: &Settings) -> Result<CacheRow, Failure> {
        row.public = settings.public.unwrap_or(row.public);
        row.priority = settings.priority.unwrap_or(row.priority);
        row.transport = settings.transport.unwrap_or(row.transport);
        row.on_conflict = settings.on_conflict.unwrap_or(row.on_conflict);
        row.references = settings.references.unwrap_or(row.references);
        row.at_root = settings.at_root.unwrap_or(row.at_root);
        if let Some(host) = &settings.host {
            row.host = if host.is_empty() { None } else { Some(check_host(host)?) };
        }
        if let Some(texts) = &settings.trusted_keys {
            row.trusted_keys = keys::public("trusted", texts)?;
        }
        if let Some(texts) = &settings.upstream_keys {
            row.upstream_keys = keys::public("upstream", texts)?;
        }
        let stem = row.host.as_ref().map_or_else(|| name.to_string(), |host| format!("{host}-{name}"));
        row.signing_keys = self.changed_keys(&row.signing_keys, settings, &stem)?;
        for (other, other_row) in self.meta.caches().map_err(store)? {
            if other == *name {
                continue;
            }
            if row.at_root && other_row.at_root {
                return Err(invalid(format!(
                    "put '{name}' at the root: '{other}' stands there; `firnd cache set {other} --no-root` takes it away"
                )));
            }
            if row.host.is_some() && row.host == other_row.host {
                return Err(invalid(format!(
                    "give '{name}' that host name: '{other}' has it; `firnd cache set {other} --no-host` takes it away"
                )));
            }
        }
        Ok(row)
    }

    /// Returns a cache's signing keys after a change, and notes the numbers in the names of all, those that go included.
    fn changed_keys(&self, old: &[String], settings: &Settings, stem: &str) -> Result<Vec<String>, Failure> {
        let known = self.meta.key_numbers().map_err(store)?;
        let last = known.into_iter().find(|(of, _)| of == stem).map_or(0, |(_, last)| last);
        let keys = keys::changed(old, settings, &keys::Names { stem, last }, self.entropy)?;
        if keys != old {
            self.note_keys(old.iter().chain(&keys))?;
        }
        Ok(keys)
    }

    fn note_keys<'k>(&self, keys: impl Iterator<Item = &'k String>) -> Result<(), Failure> {
        for (stem, number) in keys.filter_map(|key| keys::numbered(key)) {
            self.meta.note_key_number(stem, number).map_err(store)?;
        }
        Ok(())
    }

    fn write_cache(&self, name: &CacheName, row: &CacheRow) -> Result<(), Failure> {
        self.meta.put_cache(name, row).map_err(store)?;
        self.refresh_caches()
    }

    fn write_retention(&self, name: &CacheName, settings: &Settings) -> Result<(), Failure> {
        let Settings { keep_seconds, keep_last, quota_bytes, .. } = settings;
        if keep_seconds.is_none() && keep_last.is_none() && quota_bytes.is_none() {
            return Ok(());
        }
        let mut row = self.meta.retention(name).map_err(store)?;
        if let Some(seconds) = keep_seconds {
            row.keep_seconds = Some(*seconds).filter(|seconds| *seconds > 0);
        }
        if let Some(last) = keep_last {
            row.keep_last = Some(*last).filter(|last| *last > 0);
        }
        if let Some(bytes) = quota_bytes {
            row.quota_bytes = Some(*bytes).filter(|bytes| *bytes > 0);
        }
        self.meta.put_retention(name, &row).map_err(store)?;
        Ok(())
    }

    fn squeeze(&self, pass: Pass) -> Result<Answer, Failure> {
        let squeezer = self.squeezer()?;
        if squeezer.ask(pass) {
            Ok(Answer::Squeeze(squeezer.control().progress()))
        } else {
            Err(invalid("squeeze: the server does already; `firnd squeeze --progress` says how far it is".to_owned()))
        }
    }

    fn squeezer(&self) -> Result<&Squeezer, Failure> {
        let none = || invalid("ask the server about squeezing: none runs".to_owned());
        self.app.map(|app| &app.squeezer).ok_or_else(none)
    }

    pub(super) fn refresh_caches(&self) -> Result<(), Failure> {
        self.app.map_or(Ok(()), |app| app.caches.refresh(self.meta)).map_err(store)
    }

    pub(super) fn find_cache(&self, text: &str) -> Result<(CacheName, CacheRow), Failure> {
        let name = parse_name(text)?;
        match self.meta.cache(&name).map_err(store)? {
            Some(row) => Ok((name, row)),
            None => Err(Failure::NoSuchCache { name: text.to_owned() }),
        }
    }

    fn list_caches(&self) -> Result<Answer, Failure> {
        let rows = self.meta.caches().map_err(store)?;
        rows.iter().map(|(name, row)| self.view(name, row, None)).collect::<Result<_, _>>().map(Answer::Caches)
    }

    fn show_cache(&self, text: &str) -> Result<Answer, Failure> {
        let (name, row) = self.find_cache(text)?;
        let contents = self.count(&name)?;
        Ok(Answer::Cache(Box::new(self.view(&name, &row, Some(contents))?)))
    }

    fn delete_cache(&self, text: &str) -> Result<Answer, Failure> {
        let (name, row) = self.find_cache(text)?;
        let contents = self.count(&name)?;
        let view = self.view(&name, &row, Some(contents))?;
        self.note_keys(row.signing_keys.iter())?;
        self.meta.delete_cache(&name).map_err(store)?;
        self.refresh_caches()?;
        // Not before it is gone: what comes to it meanwhile would be behind the record. Nobody makes another one of this name
        // meanwhile, as no two requests run at once, and one that is asked for later is made behind the record.
        if let Some(Err(error)) = self.app.map(|app| &app.engine).or(self.engine).map(Engine::record_deleted_caches) {
            tracing::warn!(cache = %name, %error, "packs are told at the next start that a cache was deleted, or when one of this name is made");
        }
        if let Some(Err(error)) = self.app.map(|app| app.engine.forget_cache(&name)) {
            tracing::warn!(cache = %name, %error, "what a deleted cache had seen stays in the index");
        }
        Ok(Answer::Deleted(Box::new(view)))
    }

    fn count(&self, name: &CacheName) -> Result<Contents, Failure> {
        let mut contents = Contents::default();
        let mut after = None;
        loop {
            let page = self.meta.paths(name, after, PAGE).map_err(store)?;
            for (_, row) in &page {
                contents.paths += 1;
                contents.logical_bytes = contents.logical_bytes.saturating_add(row.nar_size);
            }
            match page.last() {
                Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                _ => return Ok(contents),
            }
        }
    }

    fn view(&self, name: &CacheName, row: &CacheRow, contents: Option<Contents>) -> Result<CacheView, Failure> {
        let mut public_keys = Vec::new();
        for text in &row.signing_keys {
            let key = SecretKey::parse(text).map_err(|_| Failure::Store {
                detail: format!("read a signing key of '{name}': the index is corrupt"),
            })?;
            public_keys.push(key.public().to_string());
        }
        let retention = self.meta.retention(name).map_err(store)?;
        let url = cache_url(self.base_url, name, row);
        let mut nix_conf = vec![format!("extra-substituters = {url}")];
        if !public_keys.is_empty() {
            nix_conf.push(format!("extra-trusted-public-keys = {}", public_keys.join(" ")));
        }
        Ok(CacheView {
            name: name.to_string(),
            public: row.public,
            priority: row.priority,
            store_dir: row.store_dir.clone(),
            transport: row.transport,
            on_conflict: row.on_conflict,
            references: row.references,
            trusted_keys: row.trusted_keys.clone(),
            upstream_keys: row.upstream_keys.clone(),
            public_keys,
            at_root: row.at_root,
            host: row.host.clone(),
            created_at: row.created_at,
            url,
            nix_conf,
            contents,
            keep_seconds: retention.keep_seconds,
            keep_last: retention.keep_last,
            quota_bytes: retention.quota_bytes,
        })
    }

    fn usage(&self, asked: Asked) -> Result<Answer, Failure> {
        // Without a server, the command opens the store itself.
        let app = self.app.ok_or_else(|| invalid("count what things cost: no server runs".to_owned()))?;
        let found = report::report(&app.usage, &app.engine, asked, self.now, &|_| true, true).map_err(store)?;
        Ok(Answer::Usage(Box::new(found)))
    }

    fn status(&self) -> Result<Answer, Failure> {
        // A server knows of the pack that it is writing too.
        let totals = match self.app {
            Some(app) => app.engine.stats().map_err(store)?.totals,
            None => self.meta.totals().map_err(store)?,
        };
        let Totals { paths, logical_bytes, unique_bytes, stored_bytes } = totals;
        let active =
            |(_, row): &(TokenId, TokenRow)| row.revoked_at.is_none() && row.expires_at.is_none_or(|at| at > self.now);
        let mut packs = 0;
        let (mut condemned, mut doomed) = (PacksView::default(), PacksView::default());
        let mut after = None;
        loop {
            let page = self.meta.packs(after, PAGE).map_err(store)?;
            packs += page.len() as u64;
            for (_, row) in &page {
                let sum = match row.state {
                    PackState::Condemned => &mut condemned,
                    PackState::Doomed => &mut doomed,
                    PackState::Writing | PackState::Live => continue,
                };
                sum.packs += 1;
                sum.stored_bytes += row.stored_bytes;
            }
            match page.last() {
                Some((id, _)) if page.len() == PAGE => after = Some(*id),
                _ => break,
            }
        }
        Ok(Answer::Status(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: self.app.is_some(),
            pid: self.app.map(|_| std::process::id()),
            data: self.data.root().display().to_string(),
            caches: self.meta.caches().map_err(store)?.len() as u64,
            active_tokens: self.meta.tokens().map_err(store)?.iter().filter(|token| active(token)).count() as u64,
            paths,
            logical_bytes,
            unique_bytes,
            stored_bytes,
            packs,
            index_bytes: self.data.index_bytes().map_err(store)?,
            free_bytes: self.data.free_bytes(),
            condemned,
            doomed,
            last_collected_at: self.meta.collection().map_err(store)?.last.map(|pass| pass.ended_at),
            maintenance: self.app.map(Maintenance::of).transpose().map_err(store)?.map(Box::new),
        }))
    }
}

/// Refuses what can't be a builder's name.
pub(super) fn check_builder(name: &str) -> Result<&str, Failure> {
    if name.is_empty() || name.len() > MAX_BUILDER_BYTES || name.chars().any(char::is_control) {
        return Err(invalid(format!("name a builder: give 1 to {MAX_BUILDER_BYTES} bytes without control characters")));
    }
    Ok(name)
}

/// Returns where clients find a cache of a server.
pub(crate) fn cache_url(base_url: &str, name: &CacheName, row: &CacheRow) -> String {
    match (&row.host, base_url.split_once("://")) {
        // The cache's own host is on the same port as the server's.
        (Some(host), Some((scheme, server))) => {
            let port =
                server.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
            port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}"))
        }
        _ if row.at_root => base_url.to_owned(),
        _ => format!("{base_url}/{name}"),
    }
}

fn check_host(host: &str) -> Result<String, Failure> {
    let host = host.to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        Ok(host)
    } else {
        Err(invalid(format!(
            "take the host name '{host}': it is none; give a name like cache.example.org, without scheme and port"
        )))
    }
}

fn check_store_dir(path: &str) -> Result<(), Failure> {
    let good = path.len() <= 256
        && path.starts_with('/')
        && path.len() > 1
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
        && path.bytes().all(|b| b.is_ascii_graphic());
    if good {
        Ok(())
    } else {
        Err(invalid(format!("take the store directory '{path}': it is none; give an absolute path like /nix/store")))
    }
}
