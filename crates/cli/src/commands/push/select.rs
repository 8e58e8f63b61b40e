//! Which paths are meant.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::path::Path;

use firn_nix::StorePath;
use firn_nix_store::{Daemon, Database, Error, Location, PathInfo, Selection, resolve};

use crate::cache_ref::{Token, TokenSource};
use crate::config::Config;
use crate::failure::{Failure, Kind};

/// How much is read of standard input, in bytes: about a million paths.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// How many paths that are not readable are named one by one.
const MAX_NAMED: usize = 5;

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Paths and links.
    pub(super) names: Vec<String>,
    /// Whether standard input has more.
    pub(super) stdin: bool,
    /// Whether all paths are meant.
    pub(super) all: bool,
    /// Whether what they refer to is meant too.
    pub(super) closure: bool,
}

/// What is to be considered.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// What is to be pushed.
    pub(super) paths: Vec<PathInfo>,
    /// What they refer to, where that is not to be pushed.
    pub(super) beside: Vec<PathInfo>,
    /// What somebody may want to know.
    pub(super) warnings: Vec<String>,
}

/// Takes the cache from the end of the names: a URL, or a name that the configuration has. A file of that name can be written
/// with `./`.
pub(super) fn split_cache(config: &Config, names: &[String]) -> Result<(Vec<String>, Option<String>), Failure> {
    refuse_tokens(names)?;
    let Some((last, paths)) = names.split_last() else { return Ok((Vec::new(), None)) };
    if last.contains("://") || config.caches.contains_key(last) {
        return Ok((paths.to_vec(), Some(last.clone())));
    }
    // A word that is neither a file nor a store path was meant as a cache: let the search for it say what is wrong.
    let is_there = Path::new(last).symlink_metadata().is_ok();
    if !is_there && let Some(url) = meant_as_url(last) {
        let message =
            format!("find '{last}': there is no such file, and a cache's URL begins with https:// or http://");
        return Err(Failure::new(Kind::Usage, message).hint(format!("if it is a cache, write {url}")));
    }
    let is_path = last.contains('/') || is_there || last.parse::<StorePath>().is_ok();
    if is_path { Ok((names.to_vec(), None)) } else { Ok((paths.to_vec(), Some(last.clone()))) }
}

/// Returns the URL that a word was probably meant as: `host.name/cache`, `host:8080/cache`, `http:/host/cache`.
fn meant_as_url(word: &str) -> Option<String> {
    let (scheme, rest) = match word.split_once(":/") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
        _ => (None, word),
    };
    let (host, cache) = rest.split_once('/')?;
    let is_host = scheme.is_some() || host == "localhost" || host.contains(':') || host.contains('.');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    let is_likely = is_host && !host.is_empty() && !host.starts_with('.') && host.bytes().all(is_plain);
    let is_near = host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]");
    let scheme = scheme.unwrap_or(if is_near { "http" } else { "https" });
    (is_likely && !cache.is_empty() && cache.bytes().all(|byte| is_plain(byte) || byte == b'/'))
        .then(|| format!("{scheme}://{host}/{cache}"))
}

/// Finds what is asked for in the store: by its database, or by its daemon where the database may not be read.
pub(super) fn select(location: &Location, wanted: Wanted) -> Result<Selected, Failure> {
    let roots = roots(location, &wanted)?;
    if roots.is_empty() && !wanted.all {
        return match wanted.stdin {
            true => Ok(Selected::default()),
            false => Err(Failure::new(Kind::Usage, "push: no paths are given")
                .hint("name store paths or result links, or use --stdin or --all")),
        };
    }
    let mut asked = Asked::Daemon;
    let mut refusal = None;
    let named = if location.has_own_daemon() { Some(by_daemon(location, &roots, &wanted)) } else { None };
    let (selection, beside) = match named {
        Some(Ok(found)) => found,
        other => {
            refusal = other.and_then(Result::err);
            let (found, by) = by_either(location, &roots, &wanted)?;
            asked = by;
            found
        }
    };
    if let Some(absent) = selection.absent.iter().find(|path| roots.contains(path)) {
        let who = match asked {
            Asked::Database => location.database().display().to_string(),
            Asked::Daemon => format!("the daemon at {}", location.daemon_socket.display()),
        };
        let path = absent.to_absolute(&location.store_dir);
        let message = format!("push {path}: it is not a valid path of this store, by {who}");
        return Err(Failure::new(Kind::Store, message).hint("build it first, or copy it here with `nix copy`"));
    }
    let mut warnings = warnings(&selection);
    if let Some(error) = refusal {
        warnings.push(format!(
            "the daemon that the environment names can't be asked, and {} was read: {}",
            location.database().display(),
            Failure::of(Kind::Store, error).chain()
        ));
    }
    Ok(Selected { warnings, paths: selection.paths, beside })
}

/// Who said which paths are valid.
enum Asked {
    Database,
    Daemon,
}

/// Asks the database, or the daemon where this user may not read that.
fn by_either(location: &Location, roots: &[StorePath], wanted: &Wanted) -> Result<(Found, Asked), Failure> {
    match Database::open(location).and_then(|database| by_database(&database, roots, wanted)) {
        Ok(found) => Ok((found, Asked::Database)),
        Err(Error::Denied { path, source }) => match by_daemon(location, roots, wanted) {
            Ok(found) => Ok((found, Asked::Daemon)),
            Err(error) => Err(Failure::of(Kind::Store, Error::Denied { path, source })
                .hint(format!("the daemon was no help either: {error}"))),
        },
        Err(error) => Err(Failure::of(Kind::Store, error)),
    }
}

fn roots(location: &Location, wanted: &Wanted) -> Result<Vec<StorePath>, Failure> {
    let mut names = wanted.names.clone();
    if wanted.stdin {
        let read = read_names(std::io::stdin().lock(), MAX_INPUT_BYTES)?;
        refuse_tokens(&read)?;
        names.extend(read);
    }
    let mut roots = Vec::with_capacity(names.len());
    for name in &names {
        match split_outputs(name) {
            Some((derivation, outputs)) => roots.extend(outputs_of(location, name, derivation, outputs)?),
            None => roots.push(find(location, name)?),
        }
    }
    Ok(roots)
}

fn find(location: &Location, name: &str) -> Result<StorePath, Failure> {
    resolve(location, Path::new(name)).map_err(|error| {
        let failure = Failure::of(Kind::Usage, error);
        if name.contains('#') { failure.hint(by_nix(name)) } else { failure }
    })
}

fn by_nix(name: &str) -> String {
    format!(
        "firn takes store paths, and Nix knows which ones these are: \
         nix build --no-link --print-out-paths '{name}' | firn push --stdin CACHE"
    )
}

/// Takes `x.drv^out,dev`, `x.drv^*` and the older `x.drv!out` apart.
fn split_outputs(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(['^', '!']).filter(|(derivation, _)| derivation.ends_with(".drv"))
}

/// Returns the outputs of a derivation that are named, by Nix's database.
fn outputs_of(location: &Location, name: &str, derivation: &str, wanted: &str) -> Result<Vec<StorePath>, Failure> {
    let derivation = find(location, derivation)?;
    let outputs = Database::open(location).and_then(|database| database.outputs(&derivation));
    let outputs = outputs.map_err(|error| Failure::of(Kind::Store, error).hint(by_nix(name)))?;
    if outputs.is_empty() {
        let message = format!("push {name}: Nix's database knows no outputs of this derivation");
        return Err(Failure::new(Kind::Store, message).hint(by_nix(name)));
    }
    if wanted == "*" {
        return Ok(outputs.into_values().collect());
    }
    let output = |wanted: &str| {
        outputs.get(wanted).cloned().ok_or_else(|| {
            let known: Vec<&str> = outputs.keys().map(String::as_str).collect();
            Failure::new(Kind::Usage, format!("push {name}: the outputs of this derivation are {}", known.join(", ")))
        })
    };
    wanted.split(',').map(output).collect()
}

/// Refuses tokens, which every other message would show.
fn refuse_tokens(names: &[String]) -> Result<(), Failure> {
    let is_token = |name: &String| {
        Token::new(name, TokenSource::StandardInput).is_ok_and(|token| token.id().is_some())
            && !Path::new(name).exists()
    };
    if names.iter().any(is_token) {
        let message = "push what is named: one of the names is a token, which is not repeated here";
        return Err(Failure::new(Kind::Usage, message).hint("a token comes from --token-file FILE or FIRN_TOKEN"));
    }
    Ok(())
}

/// Reads names, one a line. More than `limit` bytes are refused: a list that was cut would look like a whole one.
fn read_names(input: impl Read, limit: u64) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    let read = input.take(limit + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Failure::doing(Kind::Failed, "read paths from standard input", error))?;
    if read as u64 > limit {
        let message = format!("read paths from standard input: they are longer than {limit} bytes");
        return Err(Failure::new(Kind::Usage, message).hint("push them in several parts, or with --all"));
    }
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

type Found = (Selection, Vec<PathInfo>);

fn by_database(database: &Database, roots: &[StorePath], wanted: &Wanted) -> Result<Found, Error> {
    if wanted.all {
        let mut all = Selection::default();
        let mut after = 0;
        loop {
            let page = database.all(after, usize::MAX)?;
            let Some(last) = page.last_id() else { return Ok((all, Vec::new())) };
            after = last;
            all.paths.extend(page.paths);
            all.unreadable.extend(page.unreadable);
        }
    }
    if wanted.closure {
        return Ok((database.closure(roots)?, Vec::new()));
    }
    let selection = database.infos(roots)?;
    let beside = database.infos(&references(&selection.paths))?;
    Ok((selection, beside.paths))
}

fn by_daemon(location: &Location, roots: &[StorePath], wanted: &Wanted) -> Result<Found, Error> {
    let mut daemon = Daemon::connect(location)?;
    let mut selection = Selection::default();
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut waiting: VecDeque<StorePath> = roots.iter().cloned().collect();
    if wanted.all {
        waiting.extend(daemon.all_valid()?.paths);
    }
    while let Some(path) = waiting.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        match daemon.info(&path)? {
            None => selection.absent.push(path),
            Some(info) => {
                if wanted.closure {
                    waiting.extend(info.references.iter().filter(|reference| !seen.contains(reference)).cloned());
                }
                selection.paths.push(info);
            }
        }
    }
    let mut beside = Vec::new();
    if !wanted.closure && !wanted.all {
        for path in references(&selection.paths) {
            beside.extend(daemon.info(&path)?);
        }
    }
    Ok((selection, beside))
}

/// Returns what paths refer to, each once, and none of themselves.
fn references(paths: &[PathInfo]) -> Vec<StorePath> {
    let mut seen: HashSet<&StorePath> = paths.iter().map(|info| &info.path).collect();
    paths.iter().flat_map(|info| &info.references).filter(|reference| seen.insert(reference)).cloned().collect()
}

fn warnings(selection: &Selection) -> Vec<String> {
    let rows = selection.unreadable.iter().map(|row| format!("{}: its record makes no sense: {}", row.path, row.why));
    let absent = selection.absent.iter().map(|path| format!("{path} is referred to and not valid any more"));
    let mut warnings: Vec<String> = rows.chain(absent).collect();
    if warnings.len() > MAX_NAMED {
        let more = warnings.len() - MAX_NAMED;
        warnings.truncate(MAX_NAMED);
        warnings.push(format!("and {more} more paths can't be pushed for such reasons"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lines_and_a_list_that_is_too_long_is_refused() {
        let list = b" a \n\nb\r\nc";
        assert_eq!(read_names(&list[..], list.len() as u64).unwrap(), ["a", "b", "c"]);
        let refused = read_names(&list[..], list.len() as u64 - 1).unwrap_err();
        assert_eq!(refused.code(), crate::exit::USAGE);
        assert!(read_names(&b"\xff"[..], 10).is_err());
    }

    #[test]
    fn the_cache_is_told_from_paths() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[caches.main]\nurl = \"https://a.org/main\"\n").unwrap();
        let config =
            Config::load(&crate::config::Places { only: Some(file), user: None, system: "/nonexistent".into() })
                .unwrap();
        let split = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let (paths, cache) = split_cache(&config, &names).unwrap();
            (paths.len(), cache)
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(split(&[]), (0, None));
        assert_eq!(split(&["main"]), (0, some("main")));
        assert_eq!(split(&["./main"]), (1, None));
        assert_eq!(split(&["./result", "main"]), (1, some("main")));
        assert_eq!(split(&["./result", "/nix/store/x"]), (2, None));
        assert_eq!(split(&["a", "https://b.org/x"]), (1, some("https://b.org/x")));
        assert_eq!(split(&["./result", "mian"]), (1, some("mian")));
        assert_eq!(split(&["0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top"]), (1, None));
        assert_eq!(split(&["./result", "../a.b/c"]), (2, None));
        for (word, url) in [
            ("127.0.0.1:8080/demo", "http://127.0.0.1:8080/demo"),
            ("localhost/demo", "http://localhost/demo"),
            ("[::1]:8080/demo", "http://[::1]:8080/demo"),
            ("cache.example.org/x/main", "https://cache.example.org/x/main"),
            ("http:/host/demo", "http://host/demo"),
        ] {
            let failure = split_cache(&config, &["./result".to_owned(), word.to_owned()]).expect_err(word);
            assert_eq!(failure.code(), crate::exit::USAGE);
            assert!(failure.chain().contains(word) && failure.hint.is_some_and(|hint| hint.ends_with(url)), "{word}");
        }
        let file = folder.path().join("a.b");
        std::fs::write(&file, "").unwrap();
        assert_eq!(split(&[file.to_str().unwrap()]), (1, None));
    }

    #[test]
    fn outputs_of_derivations_are_told_from_names() {
        assert_eq!(split_outputs("/nix/store/x.drv^out,dev"), Some(("/nix/store/x.drv", "out,dev")));
        assert_eq!(split_outputs("x.drv^*"), Some(("x.drv", "*")));
        assert_eq!(split_outputs("x.drv!out"), Some(("x.drv", "out")));
        assert_eq!(split_outputs("x.drv"), None);
        assert_eq!(split_outputs("./a^b"), None);
        let failure = find(&Location::for_root(Path::new("/nonexistent")), "nixpkgs#hello").expect_err("no path");
        assert!(failure.hint.is_some_and(|hint| hint.contains("--print-out-paths 'nixpkgs#hello'")));
    }
}
