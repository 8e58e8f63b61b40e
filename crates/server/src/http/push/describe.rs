//! What the server can do, and what a cache is.

use firn_api::{CacheDescription, Capabilities};
use firn_chunk::ChunkerId;
use firn_index::Transport;
use http::Response;

use super::super::body::Body;
use super::super::home;
use super::{Call, json};

/// Answers `capabilities`, which needs no token: it says nothing of what is stored.
pub(super) fn capabilities() -> Response<Body> {
    let server = format!("firnd {}", env!("CARGO_PKG_VERSION"));
    json(&Capabilities::current(server, ChunkerId::CURRENT))
}

const _: () = {
    // What is promised is what the engine takes.
    let limits = firn_api::Limits::DEFAULT;
    assert!(limits.frame_raw_bytes == firn_engine::MAX_PUSHED_FRAME_BYTES);
    assert!(limits.frames == firn_engine::MAX_PUSHED_FRAMES);
    assert!(limits.chunks == firn_engine::MAX_PUSHED_CHUNKS);
};

/// Answers `caches/NAME`.
pub(super) fn cache(call: &Call<'_>, host: Option<&str>) -> Response<Body> {
    let (asker, cache) = (&call.asker, &call.asker.cache);
    let row = &cache.row;
    let base = home::base(call.app, host);
    let mut substituters = Vec::new();
    if let Some(own) = &row.host {
        let (scheme, rest) = base.split_once("://").unwrap_or(("http", ""));
        let port = rest.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        substituters.push(format!("{scheme}://{own}{port}"));
    } else if row.at_root {
        substituters.push(base.clone());
    }
    substituters.push(format!("{base}/{}", cache.name));
    json(&CacheDescription {
        name: cache.name.to_string(),
        store_dir: row.store_dir.clone(),
        priority: row.priority,
        public: row.public,
        public_keys: cache.public_keys().iter().map(ToString::to_string).collect(),
        upstream_keys: cache.upstreams.iter().map(ToString::to_string).collect(),
        transport: match row.transport {
            Transport::Zstd => "zstd",
            Transport::None => "none",
        }
        .to_owned(),
        can_pull: asker.can_pull,
        can_push: asker.can_push,
        builder: asker.uploader.builder.clone(),
        token_expires_at: asker.expires_at,
        substituters,
    })
}
