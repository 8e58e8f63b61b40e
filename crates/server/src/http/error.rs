//! What goes wrong with a request, and how it is told: a status, a stable code, a sentence and a hint.
//!
//! Nix retries some statuses and shows others to its user, and up to 2.33 a retried upload hangs or fails for good once its
//! body was sent. So an upload whose body was read, even in part, is answered with a final status whatever happened
//! ([`After::Body`]): a server's own failure is then 501, the one status of a server's fault that no Nix retries.

use std::error::Error as StdError;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::body::Body;
use super::codec::Unsupported;
use super::route::Access;
use crate::auth::Denial;

/// The longest body of an answer that tells a problem: Nix shows no more than 1 KiB.
const MAX_TEXT_BYTES: usize = 1000;

/// How far a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing of a body was read: the client may well try again.
    Headers,
    /// A body was read: the status must be final.
    Body,
}

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant is")]
pub enum Problem {
    #[error("{0} is not here")]
    NotFound(&'static str),
    #[error("there is no such cache, or this request may not read it")]
    Forbidden,
    #[error("{0}")]
    TokenRefused(Denial),
    #[error("{0}")]
    Unauthorised(Denial),
    #[error("the token does not permit uploads to this cache")]
    NotGranted,
    #[error("the token does not permit to see usage here")]
    UsageNotGranted,
    #[error("the question is malformed: {0}")]
    BadQuestion(String),
    #[error("there is no cache of this name")]
    NoSuchCache,
    #[error("this can't be done here")]
    Method(Access),
    #[error("the requested range lies outside of the {total} bytes that there are")]
    Range { total: u64 },
    #[error("the server has as much to do as it takes on at once")]
    Busy(After),
    #[error("the server's disk is nearly full")]
    StorageFull(After),
    #[error("the upload is larger than the {limit} bytes that are taken here")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error("the file's SHA-256 is {found}, not the one in its name")]
    FileHash { found: String },
    #[error("the body does not decode as {codec}: {detail}")]
    Undecodable { codec: &'static str, detail: String },
    #[error("the body is no whole NAR: {0}")]
    BadNar(String),
    #[error("the body stood still for too long")]
    Stalled,
    #[error("the body broke off")]
    BrokenOff,
    #[error("the narinfo is malformed: {0}")]
    BadNarInfo(String),
    #[error("the narinfo is of {found}, but its URL names another path")]
    WrongPath { found: String },
    #[error("the narinfo's URL '{url}' names no NAR that was uploaded to this cache")]
    NarMissing { url: String },
    #[error("the narinfo does not fit its NAR: {0}")]
    NarMismatch(String),
    #[error("the narinfo refers to {count} paths that this cache does not have, first {first}")]
    MissingReferences { count: usize, first: String },
    #[error("the narinfo refers to {count} paths that do not occur in its NAR, first {first}")]
    ForeignReferences { count: usize, first: String },
    #[error("this cache takes only what is signed by one of: {0}")]
    Unsigned(String),
    #[error("the cache has another build of this already")]
    Conflict,
    #[error("the document is malformed: {0}")]
    BadDocument(String),
    #[error("this cache takes only realisations that are signed by one of: {0}")]
    UnsignedRealisation(String),
    #[error("the document names {0}, which this cache does not have")]
    OutputMissing(String),
    #[error("the cache is for another store directory: {0}")]
    StoreDir(String),
    #[error("the upload took so long that what it built on is gone")]
    Outdated,
    #[error("the upload builds on stored bytes that turned out to be damaged")]
    Damaged,
    #[error("the server failed")]
    Internal(After),
}

impl Problem {
    /// Returns what an engine's error means for a request; logs those that someone may want to act on.
    pub fn of_engine(error: firn_engine::Error, after: After) -> Self {
        use firn_engine::Error as E;
        match error {
            E::NotFound { .. } => Self::NotFound("what was asked for"),
            E::Damaged { .. } => {
                tracing::error!(
                    error = &error as &dyn StdError,
                    "stored bytes are damaged: upload the path again to repair it"
                );
                match after {
                    After::Headers => Self::NotFound("what was asked for"),
                    After::Body => Self::Damaged,
                }
            }
            E::Nar(source) => Self::BadNar(source.to_string()),
            E::TooLarge { limit } => Self::TooLarge { limit },
            E::StorageFull => {
                tracing::error!("an upload was refused: the disk is nearly full");
                Self::StorageFull(after)
            }
            E::WrongNar { detail, .. } => Self::NarMismatch(detail),
            E::MissingReferences(paths) => Self::MissingReferences {
                count: paths.len(),
                first: paths.first().map(ToString::to_string).unwrap_or_default(),
            },
            E::ForeignReferences(paths) => Self::ForeignReferences {
                count: paths.len(),
                first: paths.first().map(ToString::to_string).unwrap_or_default(),
            },
            E::Refused(_) => Self::Outdated,
            // The push API answers these itself.
            E::BadFrame { .. } | E::BadRecipe { .. } | E::RecipeUnknown | E::MissingChunks(_) => {
                Self::internal(&error, after)
            }
            E::WritesStopped(_) | E::Unusable(_) | E::Index(_) | E::Storage(_) | E::Internal(_) => {
                Self::internal(&error, after)
            }
        }
    }

    /// Logs a failure that is none of the client's business.
    pub fn internal(error: &(dyn StdError + 'static), after: After) -> Self {
        tracing::error!(error, "a request failed");
        Self::Internal(after)
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) | Self::NoSuchCache => StatusCode::NOT_FOUND,
            Self::Forbidden
            | Self::TokenRefused(_)
            | Self::NotGranted
            | Self::UsageNotGranted
            | Self::Unsigned(_)
            | Self::UnsignedRealisation(_) => StatusCode::FORBIDDEN,
            Self::Unauthorised(_) => StatusCode::UNAUTHORIZED,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Busy(After::Headers) | Self::StorageFull(After::Headers) => StatusCode::SERVICE_UNAVAILABLE,
            Self::StorageFull(After::Body) | Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy(After::Body) | Self::Conflict | Self::Outdated | Self::Damaged => StatusCode::CONFLICT,
            Self::FileHash { .. }
            | Self::Undecodable { .. }
            | Self::BadNar(_)
            | Self::Stalled
            | Self::BrokenOff
            | Self::BadNarInfo(_)
            | Self::WrongPath { .. }
            | Self::NarMissing { .. }
            | Self::NarMismatch(_)
            | Self::MissingReferences { .. }
            | Self::ForeignReferences { .. }
            | Self::BadDocument(_)
            | Self::OutputMissing(_)
            | Self::StoreDir(_)
            | Self::BadQuestion(_) => StatusCode::BAD_REQUEST,
            Self::Internal(After::Headers) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Internal(After::Body) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// Returns the name by which programs know the problem; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::Forbidden => "forbidden",
            Self::TokenRefused(denial) | Self::Unauthorised(denial) => match denial {
                Denial::NoCredentials => "no-credentials",
                Denial::BadToken => "bad-token",
                Denial::Mistyped => "mistyped-token",
                Denial::Revoked => "token-revoked",
                Denial::Expired => "token-expired",
                Denial::NotGranted => "not-granted",
            },
            Self::NotGranted | Self::UsageNotGranted => "not-granted",
            Self::BadQuestion(_) => "bad-question",
            Self::NoSuchCache => "no-such-cache",
            Self::Method(_) => "method-not-allowed",
            Self::Range { .. } => "range-not-satisfiable",
            Self::Busy(_) => "busy",
            Self::StorageFull(_) => "storage-full",
            Self::TooLarge { .. } => "too-large",
            Self::Unsupported(_) => "unsupported-compression",
            Self::FileHash { .. } => "file-hash-mismatch",
            Self::Undecodable { .. } => "bad-compression",
            Self::BadNar(_) => "bad-nar",
            Self::Stalled => "upload-stalled",
            Self::BrokenOff => "upload-broken-off",
            Self::BadNarInfo(_) => "bad-narinfo",
            Self::WrongPath { .. } => "wrong-path",
            Self::NarMissing { .. } => "nar-missing",
            Self::NarMismatch(_) => "nar-mismatch",
            Self::MissingReferences { .. } | Self::OutputMissing(_) => "references-missing",
            Self::ForeignReferences { .. } => "references-foreign",
            Self::Unsigned(_) | Self::UnsignedRealisation(_) => "signature-required",
            Self::Conflict => "path-conflict",
            Self::BadDocument(_) => "bad-document",
            Self::StoreDir(_) => "wrong-store-dir",
            Self::Outdated => "upload-outdated",
            Self::Damaged => "stored-bytes-damaged",
            Self::Internal(_) => "internal-error",
        }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::Range { .. } => "",
            Self::Forbidden => {
                "Check the URL. If the cache is private, put a token with the verb 'pull' into a netrc file: machine HOST login any password TOKEN."
            }
            Self::TokenRefused(_) | Self::Unauthorised(_) => {
                "Ask the operator for a token ('firnd token create') and put it into a netrc file: machine HOST login any password TOKEN."
            }
            Self::NotGranted => "Ask the operator for a token with the grant 'CACHE:push'.",
            Self::UsageNotGranted => {
                "Ask the operator for a token with the grant 'CACHE:usage', or '*:usage' for sums over all caches."
            }
            Self::BadQuestion(_) => "See /api/v1/openapi.yaml.",
            Self::NoSuchCache => "The operator can make it with 'firnd cache create'.",
            Self::Method(_) => "Nix uses GET, HEAD and PUT only, and so does this server.",
            Self::Busy(_) => "Try again in a moment.",
            Self::StorageFull(_) => "The operator has to make room ('firnd status' shows what is used).",
            Self::TooLarge { .. } => "If it is a NAR, the operator can raise 'max-nar-size' in the configuration.",
            Self::Unsupported(_) => {
                "Upload with compression=zstd, xz, none, bzip2, gzip, br, lz4, lzip, lzma or compress."
            }
            Self::FileHash { .. } | Self::Undecodable { .. } => {
                "The file was damaged on its way, or has a wrong name. Upload it again."
            }
            Self::BadNar(_) => "Upload what 'nix-store --dump' writes, compressed as the file's name says.",
            Self::Stalled | Self::BrokenOff => "Check the connection and upload again.",
            Self::BadNarInfo(_) => "See the format in Nix's manual; 'nix copy' writes it right.",
            Self::WrongPath { .. } => "PUT it to the hash part of its StorePath, followed by '.narinfo'.",
            Self::NarMissing { .. } => {
                "Upload the NAR first. If Nix skipped it, its own cache is out of date: run it with --refresh."
            }
            Self::NarMismatch(_) => "Upload the NAR and the narinfo again, from the same store.",
            Self::MissingReferences { .. } => {
                "Upload the paths that it refers to first, as 'nix copy' does with the whole closure."
            }
            Self::ForeignReferences { .. } => "A narinfo may only name paths whose hash occurs in the NAR.",
            Self::Unsigned(_) => {
                "Sign it: 'nix store sign -k KEY-FILE PATH', or add '?secret-key=KEY-FILE' to the URL."
            }
            Self::UnsignedRealisation(_) => {
                "Nix signs realisations only as it builds them: put 'secret-key-files' into the builder's nix.conf."
            }
            Self::Conflict => {
                "Two builders made different things of it, or say differently what it refers to. The first one stays."
            }
            Self::OutputMissing(_) => "Upload the path first, as 'nix copy' does.",
            Self::BadDocument(_) => "Upload what Nix writes.",
            Self::StoreDir(_) => "Use a cache that was made for this store directory.",
            Self::Outdated => "Upload it again.",
            Self::Damaged => "Upload it again: what was damaged is stored anew then.",
            Self::Internal(_) => "Its log says more; ask the operator.",
        }
    }

    /// Returns the answer.
    pub fn into_response(self) -> Response<Body> {
        let mut text = format!("{}: {}.\n", self.code(), self);
        let hint = self.hint();
        let room = MAX_TEXT_BYTES - hint.len() - 2;
        let end = (0..=room.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        if !text.ends_with('\n') {
            text.push('\n');
        }
        if !hint.is_empty() {
            text.push_str(hint);
            text.push('\n');
        }
        let mut response = Response::new(Body::full(Bytes::from(text)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Method(access) => {
                headers.insert(ALLOW, HeaderValue::from_static(access.allow()));
            }
            Self::Unauthorised(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"firn\", charset=\"UTF-8\""));
            }
            Self::Range { total } => {
                let value = format!("bytes */{total}");
                headers.insert(CONTENT_RANGE, HeaderValue::from_str(&value).expect("digits are a header value"));
            }
            Self::Busy(After::Headers) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::StorageFull(After::Headers) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Nix tries again: of these none may answer an upload whose body was read.
    fn is_retried(status: StatusCode) -> bool {
        let final_ones = [501, 505, 511];
        matches!(status.as_u16(), 202 | 207 | 408 | 429)
            || (status.is_server_error() && !final_ones.contains(&status.as_u16()))
    }

    fn engine_errors() -> Vec<firn_engine::Error> {
        use firn_engine::Error as E;
        let path = || "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top".parse().unwrap();
        vec![
            E::NotFound { what: "x".into() },
            E::Damaged { what: "x".into(), detail: "y".into() },
            E::TooLarge { limit: 1 },
            E::StorageFull,
            E::WritesStopped("x".into()),
            E::Refused(firn_index::Refusal::SessionExpired),
            E::WrongNar { path: "x".into(), detail: "y".into() },
            E::MissingReferences(vec![path()]),
            E::ForeignReferences(vec![]),
            E::Unusable("x".into()),
            E::Index(firn_index::Error::Locked),
            E::Internal("x".into()),
        ]
    }

    #[test]
    fn is_final_once_a_body_was_read() {
        for error in engine_errors() {
            let text = format!("{error:?}");
            assert!(!is_retried(Problem::of_engine(error, After::Body).status()), "{text}");
        }
        for problem in
            [Problem::Busy(After::Body), Problem::Stalled, Problem::BrokenOff, Problem::Internal(After::Body)]
        {
            assert!(!is_retried(problem.status()), "{problem:?}");
        }
    }

    #[test]
    fn hides_damage_from_readers() {
        let damaged = firn_engine::Error::Damaged { what: "x".into(), detail: "y".into() };
        let missing = firn_engine::Error::NotFound { what: "x".into() };
        let [damaged, missing] = [damaged, missing].map(|error| Problem::of_engine(error, After::Headers));
        assert_eq!(damaged, missing);
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn fits_into_what_nix_shows() {
        use http_body_util::BodyExt as _;
        for problem in [
            Problem::BadNarInfo("ä".repeat(5000)),
            Problem::NarMissing { url: "u".repeat(5000) },
            Problem::Forbidden,
            Problem::Busy(After::Headers),
        ] {
            let (code, hint) = (problem.code(), problem.hint());
            let response = problem.into_response();
            assert!(!response.headers().contains_key("etag"));
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let text = std::str::from_utf8(&text).unwrap();
            assert!(text.len() < 1024 && text.starts_with(code) && text.ends_with(&format!("{hint}\n")), "{text}");
        }
    }
}
