//! The parser: lines of a key, a colon, one blank and a value.

use std::str::FromStr;

use super::{Compression, MAX_NARINFO_LEN, NarInfo};
use crate::{Error, Result, StorePath};

const WHAT: &str = "narinfo";

/// The values as far as they came.
#[derive(Default)]
struct Lines<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    signatures: Vec<&'a str>,
    ca: Option<&'a str>,
}

impl NarInfo {
    /// Parses a narinfo of at most [`MAX_NARINFO_LEN`] bytes, of a store in `store_dir` (without a slash at its end).
    ///
    /// Keys come in any order and unknown ones are left out. Every line ends with a newline and has one blank after the colon; a
    /// second line of the same key, CR, other control characters, and values that some Nix refuses are errors. `NarHash` comes in any
    /// spelling. Without `Compression` it is bzip2, without `References` there are none.
    pub fn parse(text: &[u8], store_dir: &str) -> Result<Self> {
        if text.len() > MAX_NARINFO_LEN {
            return Err(Error::TooLarge { what: WHAT, limit: MAX_NARINFO_LEN });
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::invalid(WHAT, "not UTF-8"))?;
        let text = text.strip_suffix('\n').ok_or(Error::invalid(WHAT, "no newline at the end"))?;
        let mut lines = Lines::default();
        for (number, line) in (1..).zip(text.split('\n')) {
            lines.add(line).map_err(|source| Error::Line { what: WHAT, line: number, source: Box::new(source) })?;
        }
        lines.evaluate(store_dir)
    }
}

impl<'a> Lines<'a> {
    fn add(&mut self, line: &'a str) -> Result<()> {
        if line.contains(|c: char| c.is_ascii_control()) {
            return Err(Error::invalid("line", "control character"));
        }
        let (key, value) = line.split_once(": ").ok_or(Error::invalid("line", "not `key: value`"))?;
        if key.contains(':') {
            return Err(Error::invalid("line", "no blank after the colon"));
        }
        let slot = match key {
            "StorePath" => &mut self.store_path,
            "URL" => &mut self.url,
            "Compression" => &mut self.compression,
            "FileHash" => &mut self.file_hash,
            "FileSize" => &mut self.file_size,
            "NarHash" => &mut self.nar_hash,
            "NarSize" => &mut self.nar_size,
            "References" => &mut self.references,
            "Deriver" => &mut self.deriver,
            "CA" => &mut self.ca,
            "Sig" => {
                self.signatures.push(value);
                return Ok(());
            }
            _ => return Ok(()),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Error::invalid("line", "key for the second time")),
        }
    }

    fn evaluate(self, store_dir: &str) -> Result<NarInfo> {
        let nar_size = parse_size(required("NarSize", self.nar_size)?)?;
        if nar_size == 0 {
            return Err(Error::invalid("NarSize", "zero"));
        }
        let deriver = self.deriver.filter(|&deriver| deriver != "unknown-deriver");
        let references = self.references.unwrap_or_default();
        Ok(NarInfo {
            store_path: StorePath::parse_absolute(required("StorePath", self.store_path)?, store_dir)?,
            url: parse_url(required("URL", self.url)?)?.to_owned(),
            compression: self.compression.map_or(Ok(Compression::Bzip2), Compression::from_str)?,
            file_hash: self.file_hash.map(str::parse).transpose()?,
            file_size: self.file_size.map(parse_size).transpose()?,
            nar_hash: required("NarHash", self.nar_hash)?.parse()?,
            nar_size,
            references: references.split(' ').filter(|s| !s.is_empty()).map(str::parse).collect::<Result<_>>()?,
            deriver: deriver.map(str::parse).transpose()?,
            signatures: self.signatures.into_iter().map(str::parse).collect::<Result<_>>()?,
            ca: self.ca.filter(|ca| !ca.is_empty()).map(str::parse).transpose()?,
        })
    }
}

fn required<'a>(field: &'static str, value: Option<&'a str>) -> Result<&'a str> {
    value.ok_or(Error::Missing { what: WHAT, field })
}

/// Parses a length in bytes: digits only, at most 63 bits.
fn parse_size(digits: &str) -> Result<u64> {
    let number = digits.parse().ok().filter(|&n: &u64| i64::try_from(n).is_ok());
    let number = number.filter(|_| digits.bytes().all(|c| c.is_ascii_digit()));
    number.ok_or(Error::invalid("size", "not a number of bytes"))
}

fn parse_url(url: &str) -> Result<&str> {
    if url.is_empty() || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid("URL", "empty, or with a blank"));
    }
    Ok(url)
}
