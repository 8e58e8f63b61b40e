//! `nix-cache-info`: what a binary cache says of itself.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

const WHAT: &str = "nix-cache-info";

/// The longest `nix-cache-info` that is parsed, in bytes.
pub const MAX_CACHE_INFO_LEN: usize = 16 << 10;

/// What a binary cache says of itself; the default is what an empty file means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheInfo {
    /// The store directory of all its paths; a client with another one does not use the cache.
    pub store_dir: Option<String>,
    /// If `nix-env -qas` may ask it for many paths at once.
    pub want_mass_query: bool,
    /// Caches with lower numbers are asked first.
    pub priority: u32,
}

impl FromStr for CacheInfo {
    type Err = Error;

    /// Parses as loosely as Nix does: blanks around values, lines that mean nothing to us, and CR before the newline are fine.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_CACHE_INFO_LEN {
            return Err(Error::TooLarge { what: WHAT, limit: MAX_CACHE_INFO_LEN });
        }
        let mut info = Self::default();
        for (line, (key, value)) in (1..).zip(text.lines()).filter_map(|(n, line)| Some((n, line.split_once(':')?))) {
            info.set(key.trim(), value.trim()).map_err(|source| Error::Line {
                what: WHAT,
                line,
                source: Box::new(source),
            })?;
        }
        Ok(info)
    }
}

impl CacheInfo {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "StoreDir" => {
                if !value.starts_with('/') || value.ends_with('/') || value.chars().any(char::is_control) {
                    return Err(Error::invalid("StoreDir", "not an absolute path"));
                }
                self.store_dir = Some(value.to_owned());
            }
            "WantMassQuery" => self.want_mass_query = value == "1",
            "Priority" => {
                self.priority = value.parse().map_err(|_| Error::invalid("Priority", "not a number"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Display for CacheInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(store_dir) = &self.store_dir {
            writeln!(f, "StoreDir: {store_dir}")?;
        }
        writeln!(f, "WantMassQuery: {}\nPriority: {}", u8::from(self.want_mass_query), self.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_values_that_mean_nothing() {
        for bad in [
            "Priority: x",
            "Priority: -1",
            "Priority:",
            "StoreDir: nix/store",
            "StoreDir: /nix/store/",
            "a\nPriority: 1 2",
        ] {
            assert!(bad.parse::<CacheInfo>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(MAX_CACHE_INFO_LEN + 1).parse::<CacheInfo>().is_err());
    }

    #[test]
    fn parses_as_loosely_as_nix() {
        let info: CacheInfo = "StoreDir:/nix/store\r\nnothing\r\nX: y\r\nPriority:  40 \r\n".parse().unwrap();
        assert_eq!(info, CacheInfo { store_dir: Some("/nix/store".into()), want_mass_query: false, priority: 40 });
        assert_eq!("".parse::<CacheInfo>().unwrap(), CacheInfo::default());
    }

    #[test]
    fn parses_what_it_prints() {
        let info = CacheInfo { store_dir: Some("/nix/store".into()), want_mass_query: true, priority: 30 };
        let text = info.to_string();
        assert_eq!(text, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
        assert_eq!(text.parse::<CacheInfo>().unwrap(), info);
    }
}
