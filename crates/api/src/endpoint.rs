//! Where requests go.

use firn_chunk::RecipeId;
use firn_nix::StoreHash;

use crate::SessionToken;

/// What every path of the API begins with. No cache can be called `api`.
pub const PREFIX: &str = "/api/v1/";

/// Stands in a path for the cache at the root of the request's host. No cache can be called so.
pub const ROOT_CACHE: &str = "_";

/// The longest encoding of a recipe that may come in parts.
const MAX_RECIPE_BYTES: u64 = 64 << 20;

/// What a request is for. All but the first are of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// GET: what the server can do.
    Capabilities,
    /// GET: what the cache is, and what the asker may do with it.
    Cache,
    /// GET: which paths came since a time?
    Paths {
        /// Seconds since 1970; 0 for all.
        since: u64,
        /// Where the last page ended.
        after: Option<StoreHash>,
    },
    /// POST: begin a session.
    Sessions,
    /// DELETE: end a session.
    Session(SessionToken),
    /// POST: which of these paths does the cache lack?
    MissingPaths,
    /// POST: which of these recipes need not be uploaded?
    KnownRecipes,
    /// POST: which of these chunks does the server lack?
    MissingChunks,
    /// POST: frames back to back.
    Frames {
        /// How many hints come before them: none, or one for each of their chunks in order.
        hints: u32,
    },
    /// PUT: a part of an encoded recipe that is too long for a commit.
    RecipePart {
        /// Whose encoding it is.
        recipe: RecipeId,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How long the whole encoding is, in bytes: 1 to 64 MiB.
        length: u64,
    },
    /// POST: make paths visible.
    Commits,
    /// GET: the cache's pins.
    Pins,
    /// POST: pin a path, or move a pin.
    PinAdd,
    /// POST: remove a pin.
    PinRemove,
}

impl Endpoint {
    /// Returns path and query for a cache; `cache` does not count for [`Endpoint::Capabilities`].
    #[must_use]
    pub fn path(&self, cache: &str) -> String {
        let rest = match self {
            Self::Capabilities => return format!("{PREFIX}capabilities"),
            Self::Cache => return format!("{PREFIX}caches/{cache}"),
            Self::Paths { since, after } => {
                let after = after.map(|hash| format!("&after={hash}")).unwrap_or_default();
                return format!("{PREFIX}caches/{cache}/paths?since={since}{after}");
            }
            Self::Sessions => "sessions",
            Self::Session(session) => return format!("{PREFIX}caches/{cache}/sessions/{session}"),
            Self::MissingPaths => "missing-paths",
            Self::KnownRecipes => "known-recipes",
            Self::MissingChunks => "missing-chunks",
            Self::Frames { hints: 0 } => "frames",
            Self::Frames { hints } => return format!("{PREFIX}caches/{cache}/frames?hints={hints}"),
            Self::RecipePart { recipe, offset, length } => {
                return format!("{PREFIX}caches/{cache}/recipes/{recipe}/{offset}?length={length}");
            }
            Self::Commits => "commits",
            Self::Pins => "pins",
            Self::PinAdd => "pins/add",
            Self::PinRemove => "pins/remove",
        };
        format!("{PREFIX}caches/{cache}/{rest}")
    }

    /// Reads a path with its query: the cache's name as it stands there (empty for [`Endpoint::Capabilities`]) and the endpoint.
    ///
    /// Doubled slashes count as one, nothing is percent-decoded, and a query is read only where one is expected. `None`: this
    /// version of the API has no such path.
    #[must_use]
    pub fn parse(target: &str) -> Option<(&str, Self)> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        if (segments.next()?, segments.next()?) != ("api", "v1") {
            return None;
        }
        let (cache, endpoint) = match (segments.next()?, segments.next()) {
            ("capabilities", None) => ("", Self::Capabilities),
            ("caches", Some(cache)) => (cache, Self::of_cache(&mut segments, query)?),
            _ => return None,
        };
        segments.next().is_none().then_some((cache, endpoint))
    }

    fn of_cache<'a>(segments: &mut impl Iterator<Item = &'a str>, query: &str) -> Option<Self> {
        let Some(name) = segments.next() else { return Some(Self::Cache) };
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        Some(match name {
            "paths" => {
                let since = value("since").map_or(Some(0), number)?;
                let after = value("after").map(|hash| hash.parse().ok());
                Self::Paths { since, after: after.map_or(Some(None), |hash| hash.map(Some))? }
            }
            "sessions" => match segments.next() {
                None => Self::Sessions,
                Some(session) => Self::Session(session.parse().ok()?),
            },
            "missing-paths" => Self::MissingPaths,
            "known-recipes" => Self::KnownRecipes,
            "missing-chunks" => Self::MissingChunks,
            "frames" => {
                let hints = value("hints").map_or(Some(0), number)?;
                Self::Frames { hints: u32::try_from(hints).ok()? }
            }
            "recipes" => {
                let recipe = segments.next()?.parse().ok()?;
                let offset = number(segments.next()?)?;
                let length = number(value("length")?).filter(|length| (1..=MAX_RECIPE_BYTES).contains(length))?;
                if offset >= length {
                    return None;
                }
                Self::RecipePart { recipe, offset, length }
            }
            "commits" => Self::Commits,
            "pins" => match segments.next() {
                None => Self::Pins,
                Some("add") => Self::PinAdd,
                Some("remove") => Self::PinRemove,
                Some(_) => return None,
            },
            _ => return None,
        })
    }

    /// Returns the one method that it has.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Capabilities | Self::Cache | Self::Paths { .. } | Self::Pins => "GET",
            Self::Session(_) => "DELETE",
            Self::RecipePart { .. } => "PUT",
            Self::Sessions
            | Self::MissingPaths
            | Self::KnownRecipes
            | Self::MissingChunks
            | Self::Frames { .. }
            | Self::Commits
            | Self::PinAdd
            | Self::PinRemove => "POST",
        }
    }
}

/// Reads a decimal number without sign and without leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    #[test]
    fn finds_nothing_where_nothing_is() {
        let upper = ID.replace("01", "AB");
        for path in [
            "",
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/api/v2/capabilities",
            "/api/v1/capabilities/x",
            "/api/v1/caches",
            "/x/api/v1/capabilities",
            "/api/v1/caches/main/x",
            "/api/v1/caches/main/frames/1",
            "/api/v1/caches/main/frames?hints=-1",
            "/api/v1/caches/main/frames?hints=4294967296",
            "/api/v1/caches/main/pins/x",
            "/api/v1/caches/main/pins/add/x",
            "/api/v1/caches/main/sessions/1",
            "/api/v1/caches/main/paths/x",
            "/api/v1/caches/main/paths?since=-1",
            "/api/v1/caches/main/paths?since=",
            "/api/v1/caches/main/paths?after=",
            "/api/v1/caches/main/paths?after=x",
            "/api/v1/caches/main/sessions/00000000000000000000000000000001/x",
            "/api/v1/caches/main/recipes",
            &format!("/api/v1/caches/main/recipes/{ID}/0"),
            &format!("/api/v1/caches/main/recipes/{ID}/0?length="),
            &format!("/api/v1/caches/main/recipes/{ID}/0?length=0"),
            &format!("/api/v1/caches/main/recipes/{ID}/5?length=5"),
            &format!("/api/v1/caches/main/recipes/{ID}/01?length=5"),
            &format!("/api/v1/caches/main/recipes/{ID}/+1?length=5"),
            &format!("/api/v1/caches/main/recipes/{ID}/0?length=67108865"),
            &format!("/api/v1/caches/main/recipes/{ID}/0?length=99999999999999999999"),
            &format!("/api/v1/caches/main/recipes/{upper}/0?length=5"),
        ] {
            assert_eq!(Endpoint::parse(path), None, "{path}");
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let part = Endpoint::RecipePart { recipe: RecipeId([1; 32]), offset: 4, length: 5 };
        for endpoint in [
            Endpoint::Cache,
            Endpoint::Paths { since: 0, after: None },
            Endpoint::Paths { since: 9, after: Some(StoreHash([7; 20])) },
            Endpoint::Sessions,
            Endpoint::Session(SessionToken(1)),
            Endpoint::MissingPaths,
            Endpoint::KnownRecipes,
            Endpoint::MissingChunks,
            Endpoint::Frames { hints: 0 },
            Endpoint::Frames { hints: 7 },
            part,
            Endpoint::Commits,
            Endpoint::Pins,
            Endpoint::PinAdd,
            Endpoint::PinRemove,
        ] {
            for cache in ["main", ROOT_CACHE] {
                assert_eq!(Endpoint::parse(&endpoint.path(cache)), Some((cache, endpoint)));
                assert_eq!(Endpoint::parse(&endpoint.path(cache).replace('/', "//")), Some((cache, endpoint)));
            }
        }
        let all = Endpoint::Paths { since: 0, after: None };
        assert_eq!(Endpoint::parse("/api/v1/caches/main/paths"), Some(("main", all)));
        assert_eq!(Endpoint::parse("/api/v1/capabilities?x"), Some(("", Endpoint::Capabilities)));
        assert_eq!(part.path("_"), format!("/api/v1/caches/_/recipes/{ID}/4?length=5"));
    }
}
