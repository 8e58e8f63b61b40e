//! From what a user types to a store path.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use firn_nix::StorePath;

use crate::{Error, Location, Result};

/// The most symlinks that are followed, as Linux has it.
const MAX_LINKS: usize = 40;

/// Returns the store path that `path` is, lies in, or leads to: a path in the store, anything below one, a chain of result links, something
/// below such a link, or a plain `<hash>-<name>` (which need not exist here; `./<hash>-<name>` is a file).
///
/// Symlinks are followed until the store directory is reached, and not inside of it; so a result link of a chroot store, which
/// leads to a `/nix/store` that is not there, works. Whether the store path is valid is not looked at.
///
/// # Errors
/// [`Error::NotInStore`] if it leads elsewhere, is no store path, or has too many symlinks; [`Error::Io`] if it does not exist or
/// may not be looked at.
pub fn resolve(location: &Location, path: &Path) -> Result<StorePath> {
    if let Some(path) = path.to_str().and_then(|text| StorePath::from_base_name(text).ok()) {
        return Ok(path);
    }
    let absolute = std::path::absolute(path).map_err(|source| Error::Io {
        doing: "make absolute",
        path: path.to_owned(),
        source,
    })?;
    let not_in_store = |why: String| Error::NotInStore { path: path.to_owned(), why };
    let mut walk = Walk::new(location, &absolute);
    let mut links = 0;
    loop {
        if let Some(base_name) = walk.in_store() {
            return base_name.to_str().ok_or_else(|| not_in_store(format!("{base_name:?} is no store path"))).and_then(
                |text| {
                    StorePath::from_base_name(text)
                        .map_err(|error| not_in_store(format!("{text:?} is no store path: {error}")))
                },
            );
        }
        match walk.step()? {
            Step::Moved => {}
            Step::Followed if links < MAX_LINKS => links += 1,
            Step::Followed => return Err(not_in_store(format!("it has more than {MAX_LINKS} symlinks"))),
            Step::Arrived => {
                return Err(not_in_store(format!("it leads to {:?}, which is not in {}", walk.at, location.store_dir)));
            }
        }
    }
}

enum Step {
    Moved,
    Followed,
    Arrived,
}

/// A walk down a path, one component after the other.
struct Walk {
    /// The store directory under each of its names.
    stores: Vec<PathBuf>,
    /// Where we are; no symlinks in it.
    at: PathBuf,
    /// What is still to be walked.
    rest: VecDeque<OsString>,
}

impl Walk {
    fn new(location: &Location, absolute: &Path) -> Self {
        let mut stores = vec![PathBuf::from(&location.store_dir), location.real_store_dir.clone()];
        stores.extend(fs::canonicalize(&location.real_store_dir));
        let mut walk = Self { stores, at: "/".into(), rest: VecDeque::new() };
        walk.prepend(absolute);
        walk
    }

    fn prepend(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.rest.push_front(name.to_owned()),
                Component::ParentDir => self.rest.push_front("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
    }

    /// Returns the name after the store directory, if that is where the walk leads without a further symlink being looked at.
    fn in_store(&self) -> Option<OsString> {
        let ahead = self.at.join(self.rest.iter().collect::<PathBuf>());
        self.stores.iter().find_map(|store| match ahead.strip_prefix(store).ok()?.components().next()? {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
    }

    fn step(&mut self) -> Result<Step> {
        let Some(name) = self.rest.pop_front() else { return Ok(Step::Arrived) };
        if name == OsStr::new("..") {
            self.at.pop();
            return Ok(Step::Moved);
        }
        let next = self.at.join(&name);
        let at =
            |doing, result: io::Result<_>| result.map_err(|source| Error::Io { doing, path: next.clone(), source });
        if !at("look at", fs::symlink_metadata(&next).map(|metadata| metadata.is_symlink()))? {
            self.at = next;
            return Ok(Step::Moved);
        }
        let target = fs::read_link(&next).map_err(|source| Error::Io { doing: "read symlink", path: next, source })?;
        if target.is_absolute() {
            self.at = "/".into();
        }
        self.prepend(&target);
        Ok(Step::Followed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top-1.0";

    fn nowhere() -> (tempfile::TempDir, Location) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("nix/store").join(NAME).join("bin")).unwrap();
        let location = Location { store_dir: "/no/such/store".into(), ..Location::for_root(&root) };
        (directory, location)
    }

    fn refused(location: &Location, path: &Path) -> String {
        match resolve(location, path).unwrap_err() {
            Error::NotInStore { path: named, why } => {
                assert_eq!(named, path);
                why
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn refuses_what_leads_elsewhere() {
        let (directory, location) = nowhere();
        let inside = |name: &str| directory.path().join(name);
        fs::write(inside("file"), "").unwrap();
        assert!(refused(&location, &inside("file")).contains("is not in /no/such/store"));
        assert!(refused(&location, Path::new("/")).contains("is not in"));
        assert!(refused(&location, Path::new("/no/such/store/short")).contains("is no store path"));
        let error = resolve(&location, &Path::new("/no/such/store/..").join(NAME)).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("/no")), "{error}");
        symlink(inside("b"), inside("a")).unwrap();
        symlink("a", inside("b")).unwrap();
        assert!(refused(&location, &inside("a")).contains("more than 40 symlinks"));
        symlink("gone", inside("dangling")).unwrap();
        let error = resolve(&location, &inside("dangling")).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path == &inside("gone")), "{error}");
        assert!(matches!(resolve(&location, Path::new("")).unwrap_err(), Error::Io { .. }));
        let store = location.real_store_dir.clone();
        assert!(refused(&location, &store).contains("is not in"));
        assert!(refused(&location, &store.join(".links")).contains("is no store path"));
    }

    #[test]
    fn follows_links_to_the_store_and_not_inside() {
        let (directory, location) = nowhere();
        let expected = StorePath::from_base_name(NAME).unwrap();
        let inside = |name: &str| directory.path().join(name);
        let logical = Path::new("/no/such/store").join(NAME);
        symlink(&logical, inside("result")).unwrap();
        symlink("result", inside("result-2")).unwrap();
        symlink("../result-2", inside("root/up")).unwrap();
        symlink(logical.join("bin"), inside("bin")).unwrap();
        symlink(&location.real_store_dir, inside("store")).unwrap();
        symlink("/elsewhere", location.real_store_dir.join(NAME).join("out")).unwrap();
        for path in [
            Path::new(NAME).to_owned(),
            logical.clone(),
            logical.join("bin/top"),
            inside("result"),
            inside("result/bin/x"),
            inside("result-2"),
            inside("root/up"),
            inside("root/../result"),
            inside("bin/x/y"),
            inside("store").join(NAME),
            location.real_store_dir.join(NAME).join("out/further"),
        ] {
            assert_eq!(resolve(&location, &path).unwrap(), expected, "{path:?}");
        }
    }
}
