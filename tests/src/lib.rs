//! What the tests in `tests/tests/` share: machines that use a cache, and uploads made by hand.
//!
//! The tests start the real `firnd` and talk to it with real Nix, or with a client that does what no proper client does.

pub mod browser;
pub mod builder;
pub mod shipped;
pub mod site;

use firn_nix::{Sha256, StorePath};
use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::{Answer, Request};
use firn_testkit::nar::Node;
use firn_testkit::nix::{Nix, Settings, Store};
use firn_testkit::random::Random;

/// An expression of a closure of three paths with text, a program, links and references; `seed` makes it another one.
pub fn closure(seed: u64) -> String {
    format!(
        r#"let
  base = build {{ name = "base-{seed}"; script = "mkdir -p $out/share; seq {seed} 90000 > $out/share/numbers"; }};
  library = build {{
    name = "library-{seed}"; inherit base;
    script = ''
      mkdir -p $out/lib $out/empty
      head -c 400000 /usr/bin/env > $out/lib/program || true
      for i in 1 2 3 4 5 6 7 8 9; do seq $i 700 | sed "s,$,$base/share," > $out/lib/text-$i; done
      chmod +x $out/lib/program
      ln -s $base/share $out/share
    '';
  }};
in build {{ name = "top-{seed}"; inherit base library; script = "mkdir $out; echo $library $base $out > $out/names"; }}"#
    )
}

/// Returns a machine that may upload to a cache.
pub fn builder(nix: &Nix, cache: &Cache) -> Result<Store> {
    let store = nix.store()?;
    store.set_token("127.0.0.1", &cache.token)?;
    Ok(store)
}

/// Returns the settings of a machine that substitutes from a cache, trusting its key.
pub fn settings(cache: &Cache) -> Settings {
    Settings {
        substituters: vec![cache.url.clone()],
        trusted_public_keys: vec![cache.public_key.clone()],
        ..Settings::default()
    }
}

/// Returns a machine with an empty store that substitutes from a cache, trusting its key, without a token.
pub fn client(nix: &Nix, cache: &Cache) -> Result<Store> {
    Store::new(nix, &settings(cache))
}

/// Compares the closure of a path on two machines: Nix's hashes and the bytes.
///
/// # Panics
/// If anything differs.
pub fn assert_same(one: &Store, other: &Store, path: &str) -> Result<()> {
    let paths = one.closure(path)?;
    assert_eq!(paths, other.closure(path)?);
    for path in paths {
        assert_eq!(one.nar_hash(&path)?, other.nar_hash(&path)?, "{path}");
        assert_eq!(one.dump(&path)?, other.dump(&path)?, "{path}");
    }
    Ok(())
}

/// A store path made by hand, as an uploader without Nix would send it.
#[derive(Debug, Clone)]
pub struct Package {
    /// The store path's base name.
    pub base_name: String,
    /// Its NAR.
    pub nar: Vec<u8>,
    /// Base names that its narinfo lists.
    pub references: Vec<String>,
}

impl Package {
    /// Returns a package of a few files without references; the seed makes its name and its bytes.
    pub fn new(seed: u64, bytes: usize) -> Self {
        let hash = Random::new(seed).store_hash();
        let mut tree = Node::package(seed, bytes, &[format!("/nix/store/{hash}-package-{seed}")]);
        if let Node::Directory(entries) = &mut tree {
            entries.insert(b"seed".to_vec(), Node::file(seed.to_string()));
        }
        Self { base_name: format!("{hash}-package-{seed}"), nar: tree.encode(), references: Vec::new() }
    }

    /// Returns a package of any bytes, which need not be a NAR.
    pub fn of(seed: u64, nar: Vec<u8>) -> Self {
        Self { base_name: format!("{}-package-{seed}", Random::new(seed).store_hash()), nar, references: Vec::new() }
    }

    /// Returns the first 32 characters of the base name.
    ///
    /// # Panics
    /// If the base name is none.
    pub fn hash(&self) -> String {
        let path = StorePath::from_base_name(&self.base_name).expect("the base name is one");
        path.hash().to_string()
    }

    /// Returns the NAR's hash in nix-base32.
    pub fn nar_hash(&self) -> String {
        Sha256::of(&self.nar).to_nix32()
    }

    /// Returns the target of the uncompressed NAR below a cache.
    pub fn nar_target(&self, cache: &str) -> String {
        format!("/{cache}/nar/{}.nar", self.nar_hash())
    }

    /// Returns the target of the narinfo below a cache.
    pub fn narinfo_target(&self, cache: &str) -> String {
        format!("/{cache}/{}.narinfo", self.hash())
    }

    /// Returns the narinfo as an uploader writes it.
    pub fn narinfo(&self) -> String {
        let (hash, len) = (self.nar_hash(), self.nar.len());
        format!(
            "StorePath: /nix/store/{}\nURL: nar/{hash}.nar\nCompression: none\nFileHash: sha256:{hash}\nFileSize: {len}\n\
             NarHash: sha256:{hash}\nNarSize: {len}\nReferences: {}\n",
            self.base_name,
            self.references.join(" "),
        )
    }

    /// Sends the NAR.
    pub fn put_nar(&self, firnd: &Firnd, cache: &Cache) -> Result<Answer> {
        firnd.send(&Request::put(&self.nar_target(&cache.name), self.nar.clone()).token(&cache.token))
    }

    /// Sends the narinfo.
    pub fn put_narinfo(&self, firnd: &Firnd, cache: &Cache) -> Result<Answer> {
        firnd.send(&Request::put(&self.narinfo_target(&cache.name), self.narinfo()).token(&cache.token))
    }

    /// Sends NAR and narinfo, both of which have to be taken.
    ///
    /// # Panics
    /// If one is not.
    pub fn upload(&self, firnd: &Firnd, cache: &Cache) -> Result<()> {
        let nar = self.put_nar(firnd, cache)?;
        assert!(is_taken(&nar), "the NAR was answered with {}: {}", nar.status, nar.text());
        let narinfo = self.put_narinfo(firnd, cache)?;
        assert!(is_taken(&narinfo), "the narinfo was answered with {}: {}", narinfo.status, narinfo.text());
        Ok(())
    }

    /// Returns whether the cache has a narinfo for this path.
    pub fn is_visible(&self, firnd: &Firnd, cache: &Cache) -> Result<bool> {
        let answer = firnd.send(&Request::get(&self.narinfo_target(&cache.name)).token(&cache.token))?;
        assert!(matches!(answer.status, 200 | 404), "a narinfo was answered with {}", answer.status);
        Ok(answer.status == 200)
    }
}

/// Returns whether an upload's answer means success to Nix.
pub fn is_taken(answer: &Answer) -> bool {
    matches!(answer.status, 200 | 201 | 204)
}

/// Returns whether an upload's answer is a refusal that Nix does not retry: after the body was sent, anything else makes
/// Nix up to 2.33 hang or fail for a wrong reason.
pub fn is_refused_for_good(answer: &Answer) -> bool {
    matches!(answer.status, 400..=407 | 409..=428 | 430..=499 | 501 | 505)
}
