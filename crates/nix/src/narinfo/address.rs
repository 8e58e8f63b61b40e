//! The store path that follows from a content address, as Nix computes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use super::values::ContentAddress;
use crate::{Sha256, StoreHash, StorePath, base32};

impl ContentAddress {
    /// Returns the path of these contents with this name and these references, of which one may be the path itself (`is_self`).
    ///
    /// `None` if Nix makes no such path: a text that refers to itself, or a hash that is not of a NAR's SHA-256 with references.
    /// `store_dir` has no slash at its end.
    #[must_use]
    pub fn store_path<'a>(
        &self,
        name: &str,
        references: impl IntoIterator<Item = &'a StorePath>,
        is_self: bool,
        store_dir: &str,
    ) -> Option<StorePath> {
        let (method, hash) = self.as_str().rsplit_once(':')?;
        let mut kind = String::new();
        for reference in references.into_iter().collect::<BTreeSet<_>>() {
            let _ = write!(kind, ":{store_dir}/{reference}");
        }
        if is_self {
            kind.push_str(":self");
        }
        let hex = HEXLOWER.encode(&base32::decode(hash).ok()?);
        let (kind, hex) = match method {
            "text:sha256" if !is_self => (format!("text{kind}"), hex),
            "fixed:r:sha256" => (format!("source{kind}"), hex),
            "text:sha256" => return None,
            // Of all others, the path is that of an output, and has no references.
            _ if !kind.is_empty() => return None,
            _ => {
                let inner = Sha256::of(format!("fixed:out:{}:{hex}:", method.strip_prefix("fixed:")?).as_bytes());
                ("output:out".to_owned(), inner.to_hex())
            }
        };
        let full = Sha256::of(format!("{kind}:sha256:{hex}:{store_dir}:{name}").as_bytes());
        // Nix folds it to 20 bytes, whose text it spells from their end.
        let mut folded = [0; 20];
        for (at, byte) in full.0.iter().enumerate() {
            folded[at % 20] ^= byte;
        }
        let hash = StoreHash::from_ascii(base32::encode(&folded).as_bytes().try_into().ok()?)?;
        StorePath::new(hash, name).ok()
    }
}

impl super::NarInfo {
    /// Says if the path follows from its content address and references: then these are those that it was made with, whether the
    /// NAR has their hashes in it or not. If the contents are those of the address is not checked.
    #[must_use]
    pub fn is_made_of_references(&self, store_dir: &str) -> bool {
        let Some(ca) = &self.ca else { return false };
        let others = self.references.iter().filter(|reference| **reference != self.store_path);
        let is_self = self.references.contains(&self.store_path);
        ca.store_path(self.store_path.name(), others, is_self, store_dir).as_ref() == Some(&self.store_path)
    }

    /// Takes the content address away if the path does not follow from it, and returns it.
    ///
    /// No signature is over the address, so anyone may have written it. Nix trusts it: it refuses such a path, or aborts.
    pub fn take_false_address(&mut self, store_dir: &str) -> Option<ContentAddress> {
        if self.is_made_of_references(store_dir) { None } else { self.ca.take() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "/nix/store";

    fn path(text: &str) -> StorePath {
        text.parse().expect(text)
    }

    /// Paths that Nix 2.26 made: by `builtins.toFile`, `builtins.path`, and as outputs that are addressed by their contents.
    const MADE: [(&str, &str, &[&str]); 7] = [
        (
            "z1yczijscdp0hm3jvipw49986rr28r0v-tf0",
            "text:sha256:0x84z5jxhhafpx5r0zf36j3aqllgv07x65rklhs7f86n8vnwj5m1",
            &[],
        ),
        (
            "gi4kry8s6sjllg8dmzyzhybnnwf92n6h-tf",
            "text:sha256:187w3ca6wx7bdvx6yqfg7qdb5wi3acvp1cf4vw6896y0bzxsfkxq",
            &["z1yczijscdp0hm3jvipw49986rr28r0v-tf0"],
        ),
        (
            "5ds8sd0x2ad4s5j8lvzfajb35fhx71q9-odd",
            "text:sha256:0f3kfkhm2c6bifc9fc54na918v0a8lfbzj1gdm3wmbhnk01pbi3n",
            &["z1yczijscdp0hm3jvipw49986rr28r0v-tf0"],
        ),
        (
            "cpvlyv749fj17z56l7krd6z9hi9bvp19-src",
            "fixed:r:sha256:10wm5j0vx8gfh71qrypdll36i0nmgmj2sykq3aa0mys9jbapl5kc",
            &[],
        ),
        (
            "hp834j8zbc4gihx2zbxrkl03ww6aciw2-flat",
            "fixed:sha256:1adf54wljl3108cfx3pdh7jr2jm5vg6mkh77v9symn73b24alipd",
            &[],
        ),
        (
            "5bdrw71ayb77al76vjkbf5sal0vgcsvj-ca-1",
            "fixed:r:sha256:1pj7swf7dl5z165j08n7vjgj9mvvrz3f878avc96lyxk3zjzfl6r",
            &[],
        ),
        (
            "bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1",
            "fixed:r:sha256:0baqnrfb6y4hx9l90m23bp35zkw726hx73xbp30i7dk3x6pj22zk",
            &["5bdrw71ayb77al76vjkbf5sal0vgcsvj-ca-1", "bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1"],
        ),
    ];

    fn info(store_path: &str, ca: &str, references: &[&str]) -> super::super::NarInfo {
        super::super::NarInfo {
            store_path: path(store_path),
            url: "nar/x.nar".to_owned(),
            compression: super::super::Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(b"x"),
            nar_size: 1,
            references: references.iter().map(|text| path(text)).collect(),
            deriver: None,
            signatures: BTreeSet::new(),
            ca: Some(ca.parse().expect(ca)),
        }
    }

    #[test]
    fn paths_follow_as_nix_computes_them() {
        for (made, ca, references) in MADE {
            let info = info(made, ca, references);
            assert!(info.is_made_of_references(STORE), "{made}");
            assert!(!info.is_made_of_references("/other/store"), "{made}");
            let mut kept = info.clone();
            assert_eq!(kept.take_false_address(STORE), None);
            assert_eq!(kept, info);
            assert_eq!(kept.take_false_address("/other/store"), info.ca);
            assert_eq!(kept.ca, None);
            let none = super::super::NarInfo { ca: None, ..info.clone() };
            assert!(!none.is_made_of_references(STORE), "{made}");
        }
    }

    #[test]
    fn other_references_make_another_path() {
        for (made, ca, references) in MADE {
            let all = MADE.map(|(path, _, _)| path);
            for more in all.iter().filter(|path| !references.contains(path)) {
                assert!(!info(made, ca, &[references, &[more]].concat()).is_made_of_references(STORE), "{made} {more}");
            }
            for (at, _) in references.iter().enumerate() {
                let fewer: Vec<&str> = [&references[..at], &references[at + 1..]].concat();
                assert!(!info(made, ca, &fewer).is_made_of_references(STORE), "{made} {at}");
            }
        }
        let text: ContentAddress = MADE[0].1.parse().expect("an address");
        assert_eq!(text.store_path("x", [], true, STORE), None);
        assert_eq!(text.store_path("not a name", [], false, STORE), None);
    }
}
