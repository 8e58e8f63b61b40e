//! Uploads of what the store has: the file's hash says that it is that NAR, so it is neither decoded nor cut again.

use std::io::BufRead as _;

use firn_engine::Ingested;
use firn_index::CacheName;

use super::codec::Codec;
use super::error::{After, Problem};
use super::failed;
use super::receive::Reader;
use super::route::NarName;
use crate::app::App;
use crate::caches::Cache;

/// In how many caches a file is looked for at most.
const MAX_CACHES: usize = 64;

/// Returns the NAR that a file holds, if some cache took that very file before; the file is still to be hashed.
pub(super) fn find(app: &App, cache: &Cache, name: &NarName, codec: Codec) -> Result<Option<Ingested>, Problem> {
    let fail = |error| failed(app, error, After::Body);
    let Some(file_hash) = name.hash() else { return Ok(None) };
    let others = app.caches.all().into_iter().map(|cache| cache.name.clone()).filter(|other| *other != cache.name);
    let caches: Vec<CacheName> = std::iter::once(cache.name.clone()).chain(others).take(MAX_CACHES).collect();
    if codec == Codec::Identity {
        return app.engine.reuse(&caches, &file_hash).map_err(fail);
    }
    for other in &caches {
        let alias = app.engine.meta().alias(other, name.file()).map_err(|error| fail(error.into()))?;
        if let Some(alias) = alias.filter(|alias| alias.compression == codec.name())
            && let Some(known) = app.engine.reuse(&caches, &alias.nar_hash).map_err(fail)?
        {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// Reads a body to its end, hashing it.
pub(super) fn read_out(
    app: &App,
    reader: &mut Reader,
    explain: impl Fn(std::io::Error) -> Problem,
    known: &mut Ingested,
) -> Result<(), Problem> {
    loop {
        let len = reader.fill_buf().map_err(&explain)?.len();
        if len == 0 {
            return Ok(());
        }
        reader.consume(len);
        known.renew().map_err(|error| failed(app, error, After::Body))?;
    }
}
