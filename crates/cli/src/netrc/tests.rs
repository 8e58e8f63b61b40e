use super::*;

const FILE: &str = "\
# machine commented login a password no
machine one.example login me password first
machine two.example
  login you
  password \"with \\\"quotes\\\" and blanks\"
machine one.example login me password second
macdef init
machine macro password no

default login anonymous password guest
";

#[test]
fn finds_what_curl_finds() {
    let table = [
        ("one.example", Some("first")),
        ("ONE.example", Some("first")),
        ("two.example", Some("with \"quotes\" and blanks")),
        ("commented", Some("guest")),
        ("macro", Some("guest")),
    ];
    for (host, expected) in table {
        assert_eq!(password(FILE, host).as_deref(), expected, "{host}");
    }
    assert_eq!(password("machine a login b", "a"), None, "an entry without a password hides later ones");
    assert_eq!(password("", "a"), None);
}

#[test]
fn survives_what_is_no_netrc_file() {
    for text in
        ["machine", "machine ", "login", "password x", "\"", "machine \"a", "#", "machine a password", "macdef x"]
    {
        let _ = (password(text, "a"), remove(text, "a"));
        let added = set(text, "b.example", "firn", "t");
        assert!(added.contains("b.example"), "{text:?} became {added:?}");
    }
}

#[test]
fn setting_changes_only_the_hosts_first_entry() {
    let changed = set(FILE, "one.example", "firn", "new");
    assert_eq!(password(&changed, "one.example").as_deref(), Some("new"));
    assert_eq!(changed, FILE.replacen("login me password first", "login firn password new", 1));
    let changed = set(FILE, "two.example", "firn", "new");
    assert_eq!(password(&changed, "two.example").as_deref(), Some("new"));
    assert!(changed.contains("\nmachine two.example login firn password new\nmachine one.example"));
}

#[test]
fn a_new_entry_comes_before_the_default() {
    let changed = set(FILE, "new.example", "firn", "t");
    assert_eq!(password(&changed, "new.example").as_deref(), Some("t"));
    assert_eq!(password(&changed, "other.example").as_deref(), Some("guest"));
    assert_eq!(changed.replace("machine new.example login firn password t\n", ""), FILE);
}

#[test]
fn setting_twice_is_setting_once() {
    for text in ["", "machine a password b", FILE] {
        let once = set(text, "h", "firn", "t");
        assert_eq!(set(&once, "h", "firn", "t"), once);
        assert!(once.ends_with('\n'));
    }
}

#[test]
fn removing_undoes_setting() {
    for text in ["", "machine a password b\n", FILE] {
        let with = set(text, "h", "firn", "t");
        assert!(has_entry(&with, "h"));
        assert_eq!(remove(&with, "h"), text);
    }
    let without = remove(FILE, "one.example");
    assert!(!has_entry(&without, "one.example") && has_entry(&without, "two.example"));
    assert_eq!(remove("machine a password b machine c password d", "a"), " machine c password d");
}

#[test]
fn entries_of_another_file_come_where_a_host_has_none() {
    let (text, added) = with_entries_of("machine ONE.example login a password mine", FILE);
    assert_eq!(added, 2, "{text}");
    let table = [("one.example", "mine"), ("two.example", "with \"quotes\" and blanks"), ("other", "guest")];
    for (host, expected) in table {
        assert_eq!(password(&text, host).as_deref(), Some(expected), "{host}: {text}");
    }
    assert_eq!(with_entries_of(&text, FILE), (text, 0));
    let (text, _) = with_entries_of("default login x password y\n", "machine a login b password c");
    assert_eq!(text, "machine a login b password c\ndefault login x password y\n");
}
