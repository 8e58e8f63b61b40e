use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use firn_testkit::nix::Nix;

use crate::support::{Home, KEY, Server, TOKEN};

const CONF: &str = ".config/nix/nix.conf";

/// A Nix without a daemon whose netrc file nobody has.
const PLAIN: &str = "*config*show*) echo '{\"netrc-file\": {\"value\": \"/nonexistent/netrc\"}}';;\n*store*info*) echo '{\"url\": \"local\"}';;";

#[test]
fn a_key_that_is_none_is_not_written() {
    let home = Home::new().with_fake_nix(PLAIN);
    for key in ["main-1:AAAA", "x", "main-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\nsandbox = false"] {
        let server = Server::firnd(move |cache| cache["public_keys"] = vec![key].into());
        home.firn(&["use", &server.url()]).expect(3);
    }
    assert!(!home.exists(CONF));
}

#[test]
fn a_cache_that_cannot_be_used_is_refused() {
    let home = Home::new().with_fake_nix(PLAIN);
    let other_store = Server::firnd(|cache| cache["store_dir"] = "/gnu/store".into());
    assert!(home.firn(&["use", &other_store.url()]).expect(2).err.contains("/gnu/store"));
    let push_only = Server::firnd(|cache| cache["can_pull"] = false.into());
    assert!(home.firn(&["use", &push_only.url()]).expect(3).err.contains("may not pull"));
    let private = Server::firnd(|cache| cache["public"] = false.into());
    assert!(home.firn(&["use", &private.url()]).expect(3).err.contains("hint:"));
    assert!(!home.exists(CONF));
}

#[test]
fn every_nix_reads_what_is_written() {
    for nix in Nix::require_all() {
        let home = Home::new().with_nix(nix.programs());
        let server = Server::firnd(|cache| cache["public"] = false.into());
        let token = home.write("token", TOKEN);
        let arguments = ["use", &server.url(), "--token-file", token.to_str().expect("UTF-8")];
        home.write(CONF, "# mine\ncores = 3\n");
        home.firn(&arguments).expect(0);
        let show = if nix.version().name() == "2.8" { vec!["show-config"] } else { vec!["config", "show"] };
        let shown = home.command("nix").args(["--extra-experimental-features", "nix-command"]).args(show).output();
        let shown = String::from_utf8(shown.expect("nix runs").stdout).expect("UTF-8");
        for line in ["cores = 3".to_owned(), format!("netrc-file = {}", home.file(".config/nix/netrc").display())] {
            assert!(shown.lines().any(|shown| shown == line), "{nix:?}: no {line} in\n{shown}");
        }
        for (name, word) in [("substituters", server.url()), ("trusted-public-keys", KEY.to_owned())] {
            let line = shown.lines().find(|line| line.starts_with(&format!("{name} ="))).expect(name);
            assert!(line.contains(&word), "{nix:?}: {line}");
        }
        assert_eq!(home.mode(".config/nix/netrc"), 0o600);
        assert_eq!(home.read(".config/nix/netrc"), format!("machine 127.0.0.1 login firn password {TOKEN}\n"));

        let once = (home.read(CONF), home.read(".config/nix/netrc"));
        assert!(home.firn(&arguments).expect(0).err.contains("already"));
        assert_eq!((home.read(CONF), home.read(".config/nix/netrc")), once);

        home.firn(&["use", "--remove", &server.url()]).expect(0);
        assert_eq!(
            (home.read(CONF), home.read(".config/nix/netrc")),
            ("# mine\ncores = 3\n".to_owned(), String::new())
        );
        assert!(home.firn(&["use", "--remove", &server.url()]).expect(0).err.contains("Nothing to remove"));
    }
}

#[test]
fn a_public_cache_gets_no_token_unless_it_is_asked_for() {
    let home = Home::new().with_fake_nix(PLAIN);
    let server = Server::firnd(|_| ());
    let token = home.write("token", TOKEN);
    let arguments = ["use", &server.url(), "--token-file", token.to_str().expect("UTF-8")];
    home.firn(&arguments).expect(0);
    assert!(!home.exists(".config/nix/netrc") && !home.read(CONF).contains("netrc"));
    home.firn(&[&arguments[..], &["--with-token"]].concat()).expect(0);
    assert!(home.exists(".config/nix/netrc") && home.read(CONF).contains("netrc-file = "));
}

#[test]
fn printing_changes_nothing_and_shows_no_token() {
    let home = Home::new();
    let server = Server::firnd(|cache| cache["public"] = false.into());
    let token = home.write("token", TOKEN);
    let ran = home.firn(&["use", &server.url(), "--print", "--token-file", token.to_str().expect("UTF-8")]).expect(0);
    let expected = format!(
        "extra-substituters = {}\nextra-trusted-public-keys = {KEY}\n# in the netrc file (mode 0600): machine 127.0.0.1 login firn password TOKEN\n",
        server.url()
    );
    assert_eq!(ran.out, expected);
    assert!(!home.exists(".config"));
}

#[test]
fn the_system_has_its_own_files() {
    let home = Home::new().with_fake_nix("*store*) exit 1;;");
    let server = Server::firnd(|cache| cache["public"] = false.into());
    let token = home.write("token", TOKEN);
    home.write("etc-nix/netrc", "machine other login x password y\n");
    let ran = home.firn(&["use", "--system", &server.url(), "--token-file", token.to_str().expect("UTF-8")]).expect(0);
    assert!(ran.err.contains("systemctl restart nix-daemon"), "{}", ran.err);
    assert_eq!(home.mode("etc-nix/nix.conf"), 0o644);
    let netrc = home.read("etc-nix/netrc");
    assert!(netrc.starts_with("machine other login x password y\nmachine 127.0.0.1 "), "{netrc}");
    assert!(!home.exists(CONF));
}

#[test]
fn who_is_not_trusted_is_told_what_to_do() {
    let home = Home::new().with_fake_nix("*store*info*) echo '{\"url\": \"daemon\", \"trusted\": 0}';;");
    let ran = home.firn(&["use", &Server::firnd(|_| ()).url()]).expect(0);
    for part in
        ["does not trust this user", "firn use --system", "extra-trusted-substituters = ", "extra-trusted-users"]
    {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[test]
fn links_and_modes_stay_as_they_are() {
    let home = Home::new().with_fake_nix(PLAIN);
    let server = Server::firnd(|_| ());
    home.write("dotfiles/nix.conf", "a = b\n");
    std::fs::create_dir_all(home.file(".config/nix")).expect("made");
    symlink("../../dotfiles/nix.conf", home.file(CONF)).expect("linked");
    home.firn(&["use", &server.url()]).expect(0);
    assert!(home.file(CONF).is_symlink());
    assert!(home.read("dotfiles/nix.conf").contains(&server.url()));
    assert_eq!(home.mode("dotfiles/nix.conf"), 0o600);
}

#[test]
fn two_caches_of_a_server_share_its_entry() {
    let home = Home::new().with_fake_nix(PLAIN);
    let server = Server::start(|request| {
        let name = request.target.rsplit('/').next().unwrap_or_default().to_owned();
        let cache = serde_json::json!({
            "name": name, "store_dir": "/nix/store", "public_keys": [KEY], "can_pull": true, "can_push": true,
        });
        (200, String::new(), cache.to_string())
    });
    let token = home.write("token", TOKEN);
    let other = format!("{}-2", server.url());
    for url in [&server.url(), &other] {
        home.firn(&["use", url, "--token-file", token.to_str().expect("UTF-8")]).expect(0);
    }
    home.firn(&["use", "--remove", &server.url()]).expect(0);
    assert!(home.read(".config/nix/netrc").contains("127.0.0.1"));
    home.firn(&["use", "--remove", &other]).expect(0);
    assert_eq!((home.read(".config/nix/netrc"), home.read(CONF)), (String::new(), String::new()));
}

#[test]
fn a_file_in_the_store_is_never_changed() {
    let mut home = Home::new().with_fake_nix(PLAIN);
    let store = home.file("store");
    home.set("NIX_STORE_DIR", store.to_str().expect("UTF-8"));
    let made = home.write("store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-nix.conf", "a = b\n");
    std::fs::create_dir_all(home.file(".config/nix")).expect("made");
    symlink(&made, home.file(CONF)).expect("linked");
    let server = Server::firnd(move |cache| cache["store_dir"] = store.to_str().into());
    let ran = home.firn(&["use", &server.url()]).expect(4);
    assert!(ran.err.contains("NixOS or home-manager makes this file"), "{}", ran.err);
    assert_eq!(home.read(CONF), "a = b\n");
}

#[test]
fn what_the_machines_netrc_file_says_is_copied_or_missed_aloud() {
    let machine = tempfile::tempdir().expect("a folder");
    fs::set_permissions(machine.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let netrc = machine.path().join("netrc");
    fs::write(&netrc, "machine other.example login x password y\n").expect("written");
    let server = Server::firnd(|cache| cache["public"] = false.into());
    let shown = netrc.display();
    for (mode, is_readable) in [(0o444, true), (0o000, false)] {
        fs::set_permissions(&netrc, fs::Permissions::from_mode(mode)).expect("a mode");
        let nix = format!("*config*show*) echo '{{\"netrc-file\": {{\"value\": \"{shown}\"}}}}';;\n*store*) exit 1;;");
        let home = Home::new().with_fake_nix(&nix);
        let token = home.write("token", TOKEN);
        let arguments = ["use", &server.url(), "--token-file", token.to_str().expect("UTF-8")];
        let ran = home.firn_as_user(&arguments).expect(0);
        assert!(ran.err.contains("no longer reads") && ran.err.contains(&shown.to_string()), "{}", ran.err);
        assert_eq!(ran.err.contains("--system"), !is_readable, "{}", ran.err);
        let own = home.read(".config/nix/netrc");
        assert_eq!(own.contains("machine other.example login x password y\n"), is_readable, "{own}");
        assert!(own.contains("machine 127.0.0.1 login firn ") && home.mode(".config/nix/netrc") == 0o600, "{own}");
        home.firn_as_user(&arguments).expect(0);
        assert_eq!(home.read(".config/nix/netrc"), own);
    }
}
