//! What went wrong, in words that never change, and what a client may do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same request may succeed later: wait, longer each time, at least as long as the server says.
    Retry,
    /// What the server said before no longer holds: ask again (a new session, the questions, proofs), then go on.
    AskAgain,
    /// It will fail again.
    Permanent,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $class:ident;)*) => {
        /// The codes of the push API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the code as it is sent.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Returns the code that is spelled so, if this version knows it.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }

            /// Returns what to do after it.
            #[must_use]
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),* }
            }
        }
    };
}

codes! {
    /// This server has no such path or version of the API.
    UnsupportedApi = "unsupported-api", Permanent;
    /// The path has other methods.
    MethodNotAllowed = "method-not-allowed", Permanent;
    /// No token was sent.
    NoCredentials = "no-credentials", Permanent;
    /// The token is not known.
    BadToken = "bad-token", Permanent;
    /// The token was cut or mistyped.
    MistypedToken = "mistyped-token", Permanent;
    /// The token was revoked.
    TokenRevoked = "token-revoked", Permanent;
    /// The token's time is over.
    TokenExpired = "token-expired", Permanent;
    /// The token is good, but not for this.
    NotGranted = "not-granted", Permanent;
    /// There is no such cache, or the asker may not know of it.
    Forbidden = "forbidden", Permanent;
    /// There is no such cache.
    NoSuchCache = "no-such-cache", Permanent;
    /// The cache has no such path.
    NoSuchPath = "no-such-path", Permanent;
    /// The cache has no such pin.
    NoSuchPin = "no-such-pin", Permanent;
    /// A body is not what the endpoint takes: a list that is cut, a commit that doesn't parse.
    BadRequest = "bad-request", Permanent;
    /// A body or a list is longer than the limits.
    TooLarge = "too-large", Permanent;
    /// A body has a `Content-Type` that the endpoint does not take.
    UnsupportedType = "unsupported-type", Permanent;
    /// A body has a `Content-Encoding` that the endpoint does not take.
    UnsupportedCompression = "unsupported-compression", Permanent;
    /// A body does not decode by its `Content-Encoding`.
    BadCompression = "bad-compression", Permanent;
    /// A frame is damaged or is not one of chunks without bases.
    BadFrame = "bad-frame", Permanent;
    /// A recipe is malformed, or not the one of its id, or absurd.
    BadRecipe = "bad-recipe", Permanent;
    /// The recipe does not make the NAR of the path.
    NarMismatch = "nar-mismatch", Permanent;
    /// The NAR is no NAR.
    BadNar = "bad-nar", Permanent;
    /// Signatures of an item are missing: the cache wants one by a trusted key.
    SignatureRequired = "signature-required", Permanent;
    /// A proof of an upstream path is by no upstream key of the cache, or is false.
    BadProof = "bad-proof", Permanent;
    /// References are neither in the cache nor proven to be upstream's: send proofs again, or commit them first.
    ReferencesMissing = "references-missing", AskAgain;
    /// References do not occur in the NAR.
    ReferencesForeign = "references-foreign", Permanent;
    /// The cache has another NAR of the path and keeps it.
    PathConflict = "path-conflict", Permanent;
    /// The session is over or was never: open another, and ask again for what leans on it.
    SessionExpired = "session-expired", AskAgain;
    /// A request that leans on a session names none.
    SessionRequired = "session-required", AskAgain;
    /// A part of a recipe does not follow what came before: begin again at the start.
    PartOutOfOrder = "part-out-of-order", AskAgain;
    /// What the commit leans on is gone.
    UploadOutdated = "upload-outdated", AskAgain;
    /// Stored bytes that it leans on are damaged: ask again, they are missing now.
    StoredBytesDamaged = "stored-bytes-damaged", AskAgain;
    /// The body stood still.
    UploadStalled = "upload-stalled", Retry;
    /// The body broke off.
    UploadBrokenOff = "upload-broken-off", Retry;
    /// The server has as much to do as it takes on at once.
    Busy = "busy", Retry;
    /// The disk is nearly full.
    StorageFull = "storage-full", Retry;
    /// The server failed.
    InternalError = "internal-error", Retry;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The longest text of an error that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorAnswer {
    /// A stable name: one of [`Code`], or of a later version; empty if it was not firn that answered.
    pub code: String,
    /// What happened, as a fragment of a sentence.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// How long to wait before trying again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl ErrorAnswer {
    /// Reads the body of a refusal: the JSON object, or the text that is sent to those who don't ask for JSON.
    ///
    /// Whatever came, a text without control characters of at most 1 KiB a field is returned: a proxy's page becomes the message.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        if let Ok(Self { code, message, hint, retry_after }) = serde_json::from_slice(body) {
            return Self { code: clean(&code), message: clean(&message), hint: clean(&hint), retry_after };
        }
        let text = String::from_utf8_lossy(body.get(..4 * MAX_TEXT_BYTES).unwrap_or(body));
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        match first.split_once(": ") {
            Some((code, message)) if Code::from_text(code).is_some() => Self {
                code: code.to_owned(),
                message: clean(message.trim_end().trim_end_matches('.')),
                hint: clean(rest),
                retry_after: None,
            },
            _ => Self { message: clean(&text), ..Self::default() },
        }
    }

    /// Returns what to do after it; of a code that is not known, the status decides.
    #[must_use]
    pub fn class(&self, status: u16) -> Class {
        match Code::from_text(&self.code) {
            Some(code) => code.class(),
            None if matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 507) => Class::Retry,
            None => Class::Permanent,
        }
    }
}

/// Returns the text on one line, without control characters, cut to a bounded length.
fn clean(text: &str) -> String {
    let mut clean = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if clean.len() + word.len() >= MAX_TEXT_BYTES {
            break;
        }
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_its_own_codes_only() {
        for &code in Code::ALL {
            assert_eq!(Code::from_text(code.as_str()), Some(code));
        }
        for text in ["", "Busy", "busy ", "teapot"] {
            assert_eq!(Code::from_text(text), None);
        }
    }

    #[test]
    fn reads_json_and_text_and_the_pages_of_proxies() {
        let json = br#"{"code": "busy", "message": "much\u001b to do", "later": 1, "retry_after": 3}"#;
        let answer = ErrorAnswer::read(json);
        assert_eq!(
            (answer.code.as_str(), answer.message.as_str(), answer.retry_after),
            ("busy", "much to do", Some(3))
        );
        let answer = ErrorAnswer::read(b"busy: the server is busy.\nTry again\nin a moment.\n");
        assert_eq!((answer.code.as_str(), answer.message.as_str()), ("busy", "the server is busy"));
        assert_eq!(answer.hint, "Try again in a moment.");
        let page = ErrorAnswer::read(b"<html>\r\n<title>502: Bad Gateway</title>");
        assert_eq!((page.code.as_str(), page.message.as_str()), ("", "<html> <title>502: Bad Gateway</title>"));
        assert_eq!(page.class(502), Class::Retry);
        assert_eq!(page.class(404), Class::Permanent);
        assert_eq!(ErrorAnswer::read(b"[]").class(200), Class::Permanent);
    }

    #[test]
    fn the_code_decides_before_the_status() {
        let class = |code: &str, status| ErrorAnswer { code: code.into(), ..ErrorAnswer::default() }.class(status);
        assert_eq!(class("session-expired", 409), Class::AskAgain);
        assert_eq!(class("storage-full", 507), Class::Retry);
        assert_eq!(class("too-large", 503), Class::Permanent);
        assert_eq!(class("of-a-later-version", 503), Class::Retry);
        assert_eq!(class("of-a-later-version", 400), Class::Permanent);
    }

    proptest! {
        #[test]
        fn is_bounded_and_clean(body in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let answer = ErrorAnswer::read(&body);
            for text in [&answer.code, &answer.message, &answer.hint] {
                prop_assert!(text.len() <= MAX_TEXT_BYTES && !text.contains(|c: char| c.is_control()));
            }
        }

        #[test]
        fn comes_back(message in "[a-z]{0,9}", retry_after in any::<Option<u64>>()) {
            let answer = ErrorAnswer { code: "busy".into(), message, hint: "x".into(), retry_after };
            prop_assert_eq!(&ErrorAnswer::read(&serde_json::to_vec(&answer).unwrap()), &answer);
        }
    }
}
