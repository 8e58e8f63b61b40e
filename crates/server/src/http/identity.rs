//! `POST /api/v1/oidc/token`: an identity for a token.

use std::sync::Arc;

use bytes::Bytes;
use firn_api::{IDENTITY_PATH, IdentityAnswer, IdentityRequest, MAX_IDENTITY_BYTES, PREFIX};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;

use super::body::Body;
use super::receive::Incoming;
use crate::app::App;
use crate::auth::grant_text;
use crate::oidc::{Refusal, keep};

/// Returns whether a path is that of the exchange.
pub(super) fn is_at(path: &str) -> bool {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut expected = PREFIX.split('/').chain(IDENTITY_PATH.split('/')).filter(|segment| !segment.is_empty());
    expected.all(|segment| segments.next() == Some(segment)) && segments.next().is_none()
}

/// Answers; refusals are JSON, and say of an identity that nobody has checked no more than what is wrong with it.
pub(super) async fn answer<B>(app: &Arc<App>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let (head, body) = request.into_parts();
    let mut body = Incoming::new(body, &head.headers, app.config.server.body_timeout.0);
    if head.method != Method::POST {
        let mut response =
            refused(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this can't be done here", "Send POST.");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !app.oidc.is_used() {
        let why = "this server takes no identities";
        return refused(
            StatusCode::NOT_FOUND,
            "unsupported-api",
            why,
            "The operator adds [[oidc]] to its configuration.",
        );
    }
    let text = match body.collect(MAX_IDENTITY_BYTES as u64).await {
        Ok(text) => text,
        Err(problem) => {
            body.drain().await;
            return refused(problem.status(), problem.code(), &problem.to_string(), "");
        }
    };
    let Ok(IdentityRequest { token }) = serde_json::from_slice(&text) else {
        let why = "the body is not {\"token\": \"…\"}";
        return refused(StatusCode::BAD_REQUEST, "bad-request", why, "See docs/PROTOCOL.md.");
    };
    match exchange(app, &token).await {
        Ok(answer) => {
            let text = serde_json::to_vec(&answer).unwrap_or_default();
            json_response(StatusCode::OK, text)
        }
        Err(refusal) => {
            tracing::info!(why = %refusal, "an identity got no token");
            let (status, code) = told(&refusal);
            let mut response = refused(status, code, &refusal.to_string(), hint(&refusal));
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            }
            response
        }
    }
}

async fn exchange(app: &Arc<App>, token: &str) -> Result<IdentityAnswer, Refusal> {
    let now = app.now();
    let (issued, rule) = app.oidc.exchange(token.trim(), now, app.engine.entropy()).await?;
    let shared = Arc::clone(app);
    let (issued, rule) = app
        .blocking(move || {
            keep(&shared.tokens, shared.engine.meta(), &issued, &rule, now)?;
            Ok((issued, rule))
        })
        .await
        .map_err(|panic| Refusal::Store(panic.to_string()))??;
    let row = &issued.row.token;
    tracing::info!(
        token = %issued.token.id(), rule = rule.name, issuer = rule.issuer, subject = issued.row.origin.subject,
        builder = row.builder, "a token was made for an identity"
    );
    Ok(IdentityAnswer {
        token: issued.token.reveal().to_string(),
        expires_at: row.expires_at.unwrap_or(now),
        builder: row.builder.clone(),
        grants: row.grants.iter().map(grant_text).collect(),
        rule: rule.name,
    })
}

/// Returns how a refusal is told.
fn told(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, "identity-malformed"),
        Refusal::Algorithm => (StatusCode::UNAUTHORIZED, "identity-algorithm"),
        Refusal::Issuer => (StatusCode::UNAUTHORIZED, "identity-issuer"),
        Refusal::UnknownKey => (StatusCode::UNAUTHORIZED, "identity-key"),
        Refusal::Signature => (StatusCode::UNAUTHORIZED, "identity-signature"),
        Refusal::Expired => (StatusCode::UNAUTHORIZED, "identity-expired"),
        Refusal::NotYet => (StatusCode::UNAUTHORIZED, "identity-not-yet"),
        Refusal::Audience => (StatusCode::UNAUTHORIZED, "identity-audience"),
        Refusal::NoRule => (StatusCode::FORBIDDEN, "identity-not-granted"),
        Refusal::IssuerUnreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, "issuer-unreachable"),
        Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Refusal::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal-error"),
    }
}

fn hint(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed(_) | Refusal::Algorithm => "Send the token that the CI system made for this job.",
        Refusal::Issuer => "The operator adds a rule with this issuer to [[oidc]] in firnd's configuration.",
        Refusal::UnknownKey | Refusal::Signature => "Check that the token is of the issuer that the rule names.",
        Refusal::Expired => "Exchange it at once: identity tokens live for minutes.",
        Refusal::NotYet => "Check the clocks of the issuer and of the server.",
        Refusal::Audience => "Ask the CI system for a token with the audience of the server's rule.",
        Refusal::NoRule => "The claims of this job fit no rule of [[oidc]]: the operator knows what they ask for.",
        Refusal::IssuerUnreachable(_) => "The server must reach the issuer's /.well-known/openid-configuration.",
        Refusal::Busy => "Try again later.",
        Refusal::Store(_) => "The server's log says more; ask the operator.",
    }
}

fn refused(status: StatusCode, code: &str, message: &str, hint: &str) -> Response<Body> {
    json_response(status, json!({ "code": code, "message": message, "hint": hint }).to_string())
}

fn json_response(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
