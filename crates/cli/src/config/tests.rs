use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

struct Folder {
    directory: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path
    }

    fn places(&self) -> Places {
        let at = |name| self.directory.path().join(name);
        Places { only: None, user: Some(at("user.toml")), system: at("system.toml") }
    }
}

fn syntax_error(text: &str) -> String {
    match parse(Path::new("config.toml"), text) {
        Err(ConfigError::Syntax { detail, .. }) => detail,
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn errors_say_the_line_and_what_is_wrong() {
    let table = [
        ("colour = true\n", "line 1", "unknown field `colour`"),
        ("\n[caches.main]\nurl = \"https://a/b\"\ntokn = \"x\"\n", "line 4", "unknown field `tokn`"),
        ("[caches.main]\n", "line 1", "missing field `url`"),
        ("[caches.main]\nurl = \"ftp://a/b\"\n", "line 2", "http and https"),
        ("[caches.main]\nurl = \"https://me:pw@a/b\"\n", "line 2", "no user or password"),
        ("[caches.main]\nurl = \"https://a/b\"\nupstream-keys = [\"x\"]\n", "line 3", "public key"),
        ("[caches.main]\nurl = \"https://a/b\"\ntoken = \"\"\n", "line 3", "no token"),
        ("[caches.main]\nurl = \"https://a/b\"\ntoken = \"t\"\ntoken-file = \"f\"\n", "[caches.main]", "not both"),
        ("[caches.\"a/b\"]\nurl = \"https://a/b\"\n", "[caches.a/b]", "letters"),
        ("[caches\n", "line 1", "]"),
    ];
    for (text, place, problem) in table {
        let error = syntax_error(text);
        assert!(error.contains(place) && error.contains(problem), "{text:?} gave: {error}");
    }
}

#[test]
fn errors_never_show_a_token() {
    for text in [
        "[caches.main]\nurl = \"https://a/b\"\ntoken = \"firn_hidden\nx\"\n",
        "[caches.main]\nurl = \"https://a/b\"\ntoken = \"firn_hidden and more\"\n",
        "[caches.main]\nurl = \"https://a/b\"\ntoken = [\"firn_hidden\"]\n",
        "[caches.main]\nurl = \"https://u:hidden@a/b\"\n",
    ] {
        let error = parse(Path::new("c"), text).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    }
}

#[test]
fn a_file_with_a_token_that_others_can_read_is_refused() {
    let folder = Folder::new();
    let text = "[caches.main]\nurl = \"https://a/b\"\ntoken = \"t\"\n";
    for mode in [0o644, 0o640, 0o602, 0o601] {
        folder.write("user.toml", text, mode);
        match Config::load(&folder.places()) {
            Err(error @ ConfigError::Exposed { mode: found, .. }) if found == mode => {
                assert!(error.hint().is_some_and(|hint| hint.contains("chmod 600")));
            }
            other => panic!("mode {mode:o} gave {other:?}"),
        }
    }
    for mode in [0o600, 0o400] {
        folder.write("user.toml", text, mode);
        let config = Config::load(&folder.places()).expect("good");
        let token = config.caches["main"].token.as_ref().expect("a token");
        assert_eq!(token.expose(), "t");
        assert!(matches!(&token.source, TokenSource::Config(path) if path.ends_with("user.toml")));
    }
}

#[test]
fn a_file_without_a_token_may_be_read_by_all() {
    let folder = Folder::new();
    folder.write("user.toml", "[caches.main]\nurl = \"https://a/b\"\ntoken-file = \"t\"\n", 0o644);
    let config = Config::load(&folder.places()).expect("good");
    assert_eq!(config.caches["main"].token_file, Some(folder.directory.path().join("t")));
}

#[test]
fn the_users_file_goes_before_the_machines() {
    let folder = Folder::new();
    folder.write("user.toml", "default-cache = \"b\"\n[caches.a]\nurl = \"https://user/a\"\n", 0o600);
    folder.write(
        "system.toml",
        "default-cache = \"a\"\n[caches.a]\nurl = \"https://system/a\"\ntoken-file = \"t\"\n[caches.b]\nurl = \"https://system/b\"\n",
        0o644,
    );
    let config = Config::load(&folder.places()).expect("good");
    assert_eq!(config.default_cache.as_deref(), Some("b"));
    assert_eq!(config.caches["a"].url.as_str(), "https://user/a");
    assert_eq!(config.caches["a"].token_file, None, "a token of one file never goes to another file's server");
    assert_eq!(config.caches["b"].url.as_str(), "https://system/b");
    assert_eq!(config.files.len(), 2);
}

#[test]
fn no_file_is_an_empty_configuration_unless_it_was_named() {
    let folder = Folder::new();
    assert!(Config::load(&folder.places()).expect("good").caches.is_empty());
    let only = Some(folder.directory.path().join("missing.toml"));
    let error = Config::load(&Places { only, ..folder.places() }).expect_err("missing");
    assert!(error.to_string().contains("missing.toml"), "{error}");
}

#[test]
fn a_bad_file_of_the_machine_is_not_passed_over() {
    let folder = Folder::new();
    folder.write("user.toml", "", 0o600);
    folder.write("system.toml", "x = 1\n", 0o644);
    assert!(matches!(Config::load(&folder.places()), Err(ConfigError::Syntax { .. })));
}

#[test]
fn names_that_could_be_urls_or_paths_are_refused() {
    for bad in ["", ".", "..", "-x", "a/b", "a:b", "a b", "ä", &"x".repeat(65)] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    for good in ["main", "Main-1", "a.b_c", "_", &"x".repeat(64)] {
        assert_eq!(check_name(good), Ok(()), "{good:?}");
    }
}
