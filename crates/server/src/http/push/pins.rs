//! Pins by clients: whoever may push to a cache may pin in it, and change the pins that came from the same builder.

use bytes::Bytes;
use firn_api::{Code, Pin, PinAdd, PinRemove, Pins};
use firn_index::{PinName, PinRow};
use firn_nix::StorePath;
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::super::error::After;
use super::super::receive::Incoming;
use super::access::Asker;
use super::refusal::Refusal;
use super::{Answered, BODY_PATIENCE, Call, json};
use crate::app::App;

/// The longest request.
const MAX_BODY_BYTES: u64 = 4 << 10;

/// Pins that a cache may have before clients can't add more: each collection walks the closures of all.
const MAX_PINS: usize = 10_000;

pub(super) async fn list(call: &Call<'_>) -> Answered {
    let pins = call.ask(|app, asker| listed(app, asker)).await?;
    Ok(json(&Pins { pins: pins.iter().map(|(name, row)| view(name, row)).collect() }))
}

pub(super) async fn add<B>(call: &Call<'_>, body: &mut Incoming<B>) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let asked: PinAdd = read(body).await?;
    let pin = call.ask(move |app, asker| put(app, asker, &asked)).await?;
    Ok(json(&pin))
}

pub(super) async fn remove<B>(call: &Call<'_>, body: &mut Incoming<B>) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let asked: PinRemove = read(body).await?;
    let pin = call.ask(move |app, asker| {
        let missing =
            || Refusal::with(StatusCode::NOT_FOUND, Code::NoSuchPin, format!("there is no pin '{}'", asked.name));
        let name: PinName = asked.name.parse().map_err(|_| missing())?;
        let pins = known(app, asker)?;
        let (_, row) = pins.iter().find(|(known, _)| *known == name).ok_or_else(missing)?;
        check_owner(asker, &name, row)?;
        app.engine.meta().remove_pin(&asker.cache.name, &name).map_err(|error| index(app, error))?;
        Ok(view(&name, row))
    });
    Ok(json(&pin.await?))
}

fn put(app: &App, asker: &Asker, asked: &PinAdd) -> Result<Pin, Refusal> {
    let name: PinName = asked.name.parse().map_err(Refusal::bad_request)?;
    let cache = &asker.cache;
    let base_name =
        asked.path.strip_prefix(&cache.row.store_dir).map_or(&*asked.path, |rest| rest.trim_start_matches('/'));
    let path = StorePath::from_base_name(base_name)
        .map_err(|_| Refusal::bad_request(format!("'{}' is no store path of this cache", asked.path)))?;
    let pins = known(app, asker)?;
    match pins.iter().find(|(known, _)| *known == name) {
        Some((_, row)) => check_owner(asker, &name, row)?,
        None if pins.len() >= MAX_PINS => {
            return Err(Refusal::bad_request(format!("the cache has {MAX_PINS} pins: remove some first")));
        }
        None => {}
    }
    let found = app.engine.meta().path(&cache.name, &path.hash()).map_err(|error| index(app, error))?;
    if found.is_none_or(|row| row.path != path || !asker.may_be_told_of(&row)) {
        let message = format!("the cache does not have {}: push it first", path.base_name());
        return Err(Refusal::with(StatusCode::NOT_FOUND, Code::NoSuchPath, message));
    }
    // A collection that is under way keeps what was named since it began.
    app.engine.note_use(&cache.name, path.hash());
    let now = app.now();
    let expires_at = asked.expires_in.map(|seconds| now.saturating_add(seconds));
    let row = PinRow { path, pinned_at: now, expires_at, by: asker.uploader.clone() };
    if app.engine.meta().put_pin(&cache.name, &name, &row).map_err(|error| index(app, error))? {
        Ok(view(&name, &row))
    } else {
        Err(Refusal::new(StatusCode::NOT_FOUND, Code::NoSuchCache))
    }
}

/// Returns the pins that the asker may see: all, or those of paths that they are told of, and their builder's own.
fn listed(app: &App, asker: &Asker) -> Result<Vec<(PinName, PinRow)>, Refusal> {
    let pins = known(app, asker)?;
    if asker.told_only_of().is_none() {
        return Ok(pins);
    }
    let mut listed = Vec::new();
    for (name, row) in pins {
        let path = app.engine.meta().path(&asker.cache.name, &row.path.hash()).map_err(|error| index(app, error))?;
        if is_owner(asker, &row) || path.is_some_and(|path| asker.may_be_told_of(&path)) {
            listed.push((name, row));
        }
    }
    Ok(listed)
}

fn is_owner(asker: &Asker, row: &PinRow) -> bool {
    row.by.token.is_some() && row.by.builder == asker.uploader.builder
}

/// Refuses to change what the operator or another builder pinned.
fn check_owner(asker: &Asker, name: &PinName, row: &PinRow) -> Result<(), Refusal> {
    if is_owner(asker, row) {
        return Ok(());
    }
    let message = format!("{} made the pin '{name}': only they and the operator may change it", row.by.builder);
    Err(Refusal::with(StatusCode::FORBIDDEN, Code::NotGranted, message))
}

fn known(app: &App, asker: &Asker) -> Result<Vec<(PinName, PinRow)>, Refusal> {
    app.engine.meta().pins(&asker.cache.name).map_err(|error| index(app, error))
}

fn view(name: &PinName, row: &PinRow) -> Pin {
    Pin {
        name: name.to_string(),
        path: row.path.base_name(),
        pinned_at: row.pinned_at,
        expires_at: row.expires_at,
        by: row.by.builder.clone(),
    }
}

/// Reads a request's JSON, whatever type it says that it has.
async fn read<T: DeserializeOwned, B>(body: &mut Incoming<B>) -> Result<T, Refusal>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let bytes = tokio::time::timeout(BODY_PATIENCE, body.collect(MAX_BODY_BYTES)).await;
    let bytes = bytes.map_err(|_elapsed| Refusal::from(super::super::error::Problem::Stalled))??;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad_request(format!("the request's JSON: {error}")))
}

fn index(app: &App, error: firn_index::Error) -> Refusal {
    super::failed(app, error.into(), After::Body).into()
}
