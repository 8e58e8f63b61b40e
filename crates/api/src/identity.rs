//! Identities of CI jobs, exchanged for tokens.

use serde::{Deserialize, Serialize};

/// The rest of the path, after [`crate::PREFIX`], to which an identity is sent with POST.
pub const IDENTITY_PATH: &str = "oidc/token";

/// The longest body of such a request, in bytes.
pub const MAX_IDENTITY_BYTES: usize = 32 << 10;

/// What is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRequest {
    /// The identity token (a JWT) that the job's system made.
    pub token: String,
}

/// What comes back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityAnswer {
    /// The token, to be used like any other.
    pub token: String,
    /// When it stops to count, in seconds since 1970.
    pub expires_at: u64,
    /// Under which name pushes are recorded.
    pub builder: String,
    /// What it may do, as `CACHE:VERB[,VERB]…`.
    pub grants: Vec<String>,
    /// The rule of the server that fitted.
    pub rule: String,
}
