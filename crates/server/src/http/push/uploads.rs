//! Sessions, frames, parts of recipes.

use bytes::Bytes;
use firn_api::{FramesTaken, Limits, PartTaken, Session, SessionToken, split_hints};
use firn_engine::PushedFrames;
use firn_index::SessionId;

use super::super::codec::Codec;
use super::super::receive::Incoming;
use super::parts::Place;
use super::{Answered, Call, json, refuse};

pub(super) async fn begin_session(call: &Call<'_>) -> Answered {
    let session = call.ask(|app, _| app.engine.begin_session().map_err(refuse(app))).await?;
    let lease_seconds = call.app.engine.session_lease_seconds();
    Ok(json(&Session { session: SessionToken(session.0), lease_seconds }))
}

/// Ends a session; one that is over already is none the worse.
pub(super) async fn end_session(call: &Call<'_>, session: SessionToken) -> Answered {
    call.ask(move |app, _| {
        app.http.push.parts.end(session);
        app.engine.end_session(SessionId(session.0));
        Ok(())
    })
    .await?;
    Ok(json(&serde_json::Map::new()))
}

pub(super) async fn frames<B>(call: &Call<'_>, body: &mut Incoming<B>, hints: u32, limits: Limits) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (_, session) = call.session()?;
    call.ask(move |app, _| {
        app.engine.check_room().map_err(refuse(app))?;
        app.engine.renew_session(session).map_err(refuse(app))
    })
    .await?;
    let held = call.body(body, limits.body_bytes, &[Codec::Identity]).await?;
    let taken = call.work(call.upload_turn().await?, move |app, asker| {
        let (hints, frames) = split_hints(&held.bytes, hints, limits.chunks)?;
        app.engine.renew_session(session).map_err(refuse(app))?;
        let pushed = PushedFrames { frames, hints: &hints };
        app.engine.take_frames(session, &asker.scope, &asker.cache.name, pushed).map_err(refuse(app))
    });
    let firn_engine::FramesTaken { frames, chunks, new_chunks, stored_bytes } = taken.await?;
    Ok(json(&FramesTaken { frames, chunks, new_chunks, stored_bytes }))
}

pub(super) async fn recipe_part<B>(call: &Call<'_>, body: &mut Incoming<B>, place: Place, limit: usize) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (token, session) = call.session()?;
    let held = call.body(body, limit, &[Codec::Identity]).await?;
    let received = call.ask(move |app, _| {
        app.engine.renew_session(session).map_err(refuse(app))?;
        app.http.push.parts.add(token, place, &held.bytes, app.now())
    });
    Ok(json(&PartTaken { received: received.await? }))
}
