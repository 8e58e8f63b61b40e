//! The query of a URL, or the body of a form.

use percent_encoding::percent_decode_str;

/// Names and values in their order, decoded; what is no UTF-8 is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

/// Pairs that are read at most.
const MAX_PAIRS: usize = 2000;

impl Query {
    /// Reads `a=b&c=d`; a plus stands for a space.
    pub(super) fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(MAX_PAIRS);
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// Returns the first value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// Says which name should not be there, if one should not: all must be among `once`, and come once, or be `many`.
    pub(super) fn stranger(&self, once: &[&str], many: Option<&str>) -> Option<String> {
        let mut seen = Vec::new();
        let stranger = self.0.iter().map(|(name, _)| name.as_str()).find(|name| {
            let is_known = Some(*name) == many || once.contains(name) && !seen.contains(name);
            seen.push(*name);
            !is_known
        });
        stranger.map(str::to_owned)
    }

    /// Returns all values of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_names_and_values() {
        let query = Query::parse("q=a%2Bb+c&&path=1&path=%32&flag&%71=x&bad=%ff");
        assert_eq!(query.get("q"), Some("a+b c"));
        assert_eq!(query.all("path").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((query.get("flag"), query.get("none")), (Some(""), None));
        assert_eq!(query.get("bad"), Some("\u{fffd}"));
    }

    #[test]
    fn names_that_do_not_belong_are_found() {
        let stranger = |query: &str| Query::parse(query).stranger(&["a", "b"], Some("path"));
        assert_eq!((stranger(""), stranger("b=1&a&path=1&path=2")), (None, None));
        assert_eq!(stranger("a=1&c=2").as_deref(), Some("c"));
        assert_eq!(stranger("a=1&a=1").as_deref(), Some("a"), "twice");
        assert_eq!(Query::parse("path=1").stranger(&[], None).as_deref(), Some("path"));
    }
}
