//! What need not be uploaded.

use bytes::Bytes;
use firn_api::{Bitmap, WireId, decode_ids};
use firn_chunk::{ChunkId, RecipeId};
use firn_nix::StoreHash;

use super::super::codec::Codec;
use super::super::receive::Incoming;
use super::access::Asker;
use super::refusal::Refusal;
use super::{Answered, Call, binary, refuse};
use crate::app::App;

pub(super) async fn missing_paths<B>(call: &Call<'_>, body: &mut Incoming<B>, limit: usize) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    // Those who only read have no session.
    let session = call.optional_session()?.map(|(_, id)| id);
    ask(call, body, limit, move |app, asker, hashes: Vec<StoreHash>| {
        if let Some(session) = session {
            app.engine.renew_session(session).map_err(refuse(app))?;
        }
        app.engine.missing_paths(&asker.cache.name, asker.told_only_of(), &hashes).map_err(refuse(app))
    })
    .await
}

pub(super) async fn known_recipes<B>(call: &Call<'_>, body: &mut Incoming<B>, limit: usize) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (_, session) = call.session()?;
    ask(call, body, limit, move |app, asker, ids: Vec<RecipeId>| {
        app.engine.renew_session(session).map_err(refuse(app))?;
        app.engine.known_recipes(&asker.scope, &ids).map_err(refuse(app))
    })
    .await
}

pub(super) async fn missing_chunks<B>(call: &Call<'_>, body: &mut Incoming<B>, limit: usize) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (_, session) = call.session()?;
    ask(call, body, limit, move |app, asker, ids: Vec<ChunkId>| {
        app.engine.renew_session(session).map_err(refuse(app))?;
        app.engine.missing_chunks(&asker.scope, &ids).map_err(refuse(app))
    })
    .await
}

/// Reads at most `limit` ids and answers with a bit for each.
async fn ask<B, I, F>(call: &Call<'_>, body: &mut Incoming<B>, limit: usize, answer: F) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
    I: WireId + Send + 'static,
    F: FnOnce(&App, &Asker, Vec<I>) -> Result<Vec<bool>, Refusal> + Send + 'static,
{
    let held = call.body(body, limit.saturating_mul(I::BYTES), &[Codec::Identity]).await?;
    let bits = call.ask(move |app, asker| {
        let ids = decode_ids(&held.bytes, limit)?;
        let count = ids.len();
        let bits = answer(app, asker, ids)?;
        debug_assert_eq!(bits.len(), count);
        Ok(Bitmap::from_bools(&bits).into_bytes())
    });
    Ok(binary(bits.await?))
}
