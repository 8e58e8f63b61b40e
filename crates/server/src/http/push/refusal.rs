//! What is refused, and how it is told. Clients of the push API are written for it: they may be told to try again after a
//! body, as Nix may not.

use firn_api::{Code, ErrorAnswer};
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::super::body::Body;
use super::super::error::Problem;

/// The longest message, in bytes: it may go through a log or a terminal.
const MAX_MESSAGE_BYTES: usize = 700;

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    pub(super) message: String,
    hint: &'static str,
    allow: Option<&'static str>,
}

impl Refusal {
    /// Returns a refusal with the usual message of its code.
    pub(super) fn new(status: StatusCode, code: Code) -> Self {
        Self { status, code, message: usual(code).to_owned(), hint: hint(code), allow: None }
    }

    pub(super) fn with(status: StatusCode, code: Code, message: impl std::fmt::Display) -> Self {
        Self { message: cut(message.to_string()), ..Self::new(status, code) }
    }

    pub(super) fn bad_request(message: impl std::fmt::Display) -> Self {
        Self::with(StatusCode::BAD_REQUEST, Code::BadRequest, message)
    }

    pub(super) fn unsupported() -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::UnsupportedApi)
    }

    pub(super) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed) }
    }

    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy)
    }

    pub(super) fn session_expired() -> Self {
        Self::new(StatusCode::CONFLICT, Code::SessionExpired)
    }

    /// Returns what an engine's error means; those that the rest of the server knows as well go through `other`.
    pub(super) fn of_engine(error: firn_engine::Error, other: impl FnOnce(firn_engine::Error) -> Problem) -> Self {
        use firn_engine::Error as E;
        use firn_index::Refusal as R;
        let bad = |code, message: String| Self::with(StatusCode::BAD_REQUEST, code, message);
        match error {
            E::BadFrame { offset, detail } => bad(Code::BadFrame, format!("the frame at byte {offset}: {detail}")),
            E::BadRecipe { detail } => bad(Code::BadRecipe, detail),
            E::WrongNar { detail, .. } => bad(Code::NarMismatch, detail),
            E::MissingReferences(paths) => {
                let what = "references that are neither in the cache nor proven to be upstream's";
                Self::with(StatusCode::CONFLICT, Code::ReferencesMissing, listed(what, &paths))
            }
            E::ForeignReferences(paths) => {
                bad(Code::ReferencesForeign, listed("references that don't occur in the NAR", &paths))
            }
            E::Refused(R::SessionExpired) => Self::session_expired(),
            E::Refused(R::PacksGone(_) | R::RecipeChanged(_)) => Self::new(StatusCode::CONFLICT, Code::UploadOutdated),
            E::Refused(R::CacheGone(_)) => Self::new(StatusCode::NOT_FOUND, Code::NoSuchCache),
            error => other(error).into(),
        }
    }

    /// Returns the answer, as a JSON object or as text.
    pub(super) fn into_response(self, json: bool) -> Response<Body> {
        let retry_after = self.retry_after();
        let Self { status, code, message, hint, allow } = self;
        let (text, content_type) = if json {
            let answer = ErrorAnswer { code: code.as_str().to_owned(), message, hint: hint.to_owned(), retry_after };
            (serde_json::to_string(&answer).expect("texts are JSON"), "application/json")
        } else {
            let text = format!("{code}: {message}.\n{hint}\n");
            (format!("{}\n", text.trim_end()), "text/plain; charset=utf-8")
        };
        let mut response = Response::new(Body::full(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"firn\", charset=\"UTF-8\""));
        }
        response
    }

    /// Returns how long a client should wait, in seconds: a disk is not emptied in a moment.
    fn retry_after(&self) -> Option<u64> {
        match self.code {
            Code::Busy => Some(1),
            Code::StorageFull => Some(60),
            _ => None,
        }
    }
}

/// Says if a client asked for JSON.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        let mut types = value.as_bytes().split(|&byte| byte == b',');
        types.any(|one| one.trim_ascii().starts_with(b"application/json"))
    })
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let code = Code::from_text(problem.code()).unwrap_or(Code::InternalError);
        let status = match code {
            Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Code::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            _ => problem.status(),
        };
        Self {
            hint: if hint(code).is_empty() { problem.hint() } else { hint(code) },
            ..Self::with(status, code, problem)
        }
    }
}

impl From<firn_api::Error> for Refusal {
    fn from(error: firn_api::Error) -> Self {
        match error {
            firn_api::Error::TooMany { .. } => Self::with(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, error),
            firn_api::Error::Malformed { .. } => Self::bad_request(error),
        }
    }
}

fn listed(what: &str, paths: &[firn_nix::StorePath]) -> String {
    let first = paths.first().map(ToString::to_string).unwrap_or_default();
    format!("it has {} {what}, first {first}", paths.len())
}

fn cut(mut message: String) -> String {
    let end = (0..=MAX_MESSAGE_BYTES.min(message.len())).rev().find(|&end| message.is_char_boundary(end));
    message.truncate(end.unwrap_or(0));
    message
}

fn usual(code: Code) -> &'static str {
    match code {
        Code::UnsupportedApi => "there is nothing here in any version of the API that this server speaks",
        Code::MethodNotAllowed => "this can't be done here",
        Code::UnsupportedType => "the body's Content-Type is not application/octet-stream",
        Code::UnsupportedCompression => "the body's Content-Encoding is not taken here",
        Code::SessionRequired => "the request names no session",
        Code::SessionExpired => "the session is over, or never was",
        Code::UploadOutdated => "the upload took so long that what it built on is gone",
        Code::NoSuchCache => "there is no cache of this name",
        Code::PartOutOfOrder => "the part does not follow what came before",
        Code::Busy => "the server has as much to do as it takes on at once",
        other => other.as_str(),
    }
}

fn hint(code: Code) -> &'static str {
    match code {
        Code::UnsupportedApi => "Ask /api/v1/capabilities; a newer server may speak an older client's version.",
        Code::MethodNotAllowed => "See docs/PROTOCOL.md.",
        Code::UnsupportedType => "Send application/octet-stream.",
        Code::UnsupportedCompression => "Only commits may be compressed, with zstd.",
        Code::BadRequest | Code::BadFrame | Code::BadRecipe | Code::TooLarge => {
            "The client and this server don't agree on the protocol, or the bytes were damaged on their way."
        }
        Code::SessionRequired | Code::SessionExpired => "Open a session, ask again for what is missing, and go on.",
        Code::PartOutOfOrder => "Send the recipe again from its start.",
        Code::ReferencesMissing => "Commit them first, or send the upstream's signatures.",
        Code::BadProof => "The operator sets them with 'firnd cache set NAME --upstream-key KEY'.",
        Code::NarMismatch => {
            "The path changed while it was pushed, or the store's database is wrong: 'nix-store --verify-path' tells."
        }
        Code::UploadOutdated | Code::StoredBytesDamaged => "Ask again for what is missing, and commit again.",
        Code::NoSuchCache => "The operator can make it with 'firnd cache create'.",
        Code::Busy => "Try again in a moment.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::error::After;
    use super::*;
    use crate::auth::Denial;

    #[test]
    fn tells_overload_from_a_full_disk_and_both_from_refusals() {
        let of = |problem: Problem| Refusal::from(problem);
        for after in [After::Headers, After::Body] {
            assert_eq!(
                (of(Problem::Busy(after)).status.as_u16(), of(Problem::Busy(after)).retry_after()),
                (503, Some(1))
            );
            let full = of(Problem::StorageFull(after));
            assert_eq!((full.status.as_u16(), full.code, full.retry_after()), (507, Code::StorageFull, Some(60)));
            assert_eq!(of(Problem::Internal(after)).status.as_u16(), 500);
        }
        assert_eq!(of(Problem::TooLarge { limit: 1 }).status.as_u16(), 413);
        assert_eq!(of(Problem::NotGranted).status.as_u16(), 403);
        assert_eq!(of(Problem::Unauthorised(Denial::NoCredentials)).status.as_u16(), 401);
    }

    #[test]
    fn knows_the_codes_of_all_that_can_happen_here() {
        use Problem as P;
        let denials = [
            Denial::NoCredentials,
            Denial::BadToken,
            Denial::NotGranted,
            Denial::Mistyped,
            Denial::Revoked,
            Denial::Expired,
        ];
        let problems = [
            P::Forbidden,
            P::NotGranted,
            P::NoSuchCache,
            P::TooLarge { limit: 1 },
            P::Undecodable { codec: "zstd", detail: String::new() },
            P::BadNar(String::new()),
            P::Stalled,
            P::BrokenOff,
            P::NarMismatch(String::new()),
            P::MissingReferences { count: 1, first: String::new() },
            P::ForeignReferences { count: 1, first: String::new() },
            P::Unsigned(String::new()),
            P::Conflict,
            P::Outdated,
            P::Damaged,
        ];
        let of_denials = denials.into_iter().flat_map(|denial| [P::TokenRefused(denial), P::Unauthorised(denial)]);
        for problem in problems.into_iter().chain(of_denials) {
            assert_eq!(Code::from_text(problem.code()).map(Code::as_str), Some(problem.code()));
        }
    }

    #[test]
    fn asks_for_json_in_the_usual_ways() {
        let asks = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            wants_json(&headers)
        };
        assert!(asks("application/json") && asks("text/plain, application/json;q=0.5"));
        assert!(!asks("*/*") && !asks("text/html") && !wants_json(&HeaderMap::new()));
    }
}
