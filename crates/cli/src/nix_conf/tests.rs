use super::*;

fn entry(url: &str) -> Entry {
    Entry {
        url: url.to_owned(),
        keys: vec![format!("{}-1:AAAA", url.rsplit('/').next().unwrap_or_default())],
        netrc_file: None,
    }
}

const MAIN: &str = "https://h/main";

#[test]
fn writes_at_the_end_and_keeps_the_rest() {
    let text = "# mine\nsubstituters = https://cache.nixos.org\ncores = 4";
    let with = set(text, &entry(MAIN));
    assert_eq!(
        with,
        "# mine\nsubstituters = https://cache.nixos.org\ncores = 4\n# firn use https://h/main\n\
         extra-substituters = https://h/main\nextra-trusted-public-keys = main-1:AAAA\n# end of firn use https://h/main\n"
    );
    assert_eq!(remove(&with, MAIN), format!("{text}\n"));
}

#[test]
fn setting_twice_is_setting_once() {
    for text in ["", "x = y\n", "substituters = https://h/main\n"] {
        let once = set(text, &entry(MAIN));
        assert_eq!(set(&once, &entry(MAIN)), once, "{text:?}");
        let other = set(&once, &entry("https://h/other"));
        assert_eq!(set(&other, &entry("https://h/other")), other);
        assert_eq!(urls(&set(&other, &entry(MAIN))).len(), urls(&other).len());
        assert_eq!(remove(&remove(&other, "https://h/other"), MAIN), text);
    }
}

#[test]
fn a_new_key_or_file_replaces_the_old_one() {
    let old = set("a = b\n", &entry(MAIN));
    let new = Entry { keys: vec!["main-2:BBBB".into()], netrc_file: Some("/n".into()), ..entry(MAIN) };
    let text = set(&old, &new);
    assert!(text.contains("main-2:BBBB\nnetrc-file = /n\n") && !text.contains("main-1"), "{text}");
    assert_eq!(remove(&text, MAIN), "a = b\n");
}

#[test]
fn says_only_what_the_file_lacks() {
    let text = "extra-substituters = https://h/main/ # by hand\n";
    assert!(!set(text, &entry(MAIN)).contains("\nextra-substituters"));
    let text = format!("{text}trusted-public-keys = a-1:x main-1:AAAA\n");
    assert_eq!(set(&text, &entry(MAIN)), text);
    let text = format!("{text}netrc-file = /n\n");
    assert_eq!(set(&text, &Entry { netrc_file: Some("/n".into()), ..entry(MAIN) }), text);
}

#[test]
fn what_a_later_line_undoes_is_said_again() {
    let text = "extra-substituters = https://h/main\nsubstituters = https://cache.nixos.org\n";
    assert!(set(text, &entry(MAIN)).ends_with("# end of firn use https://h/main\n"));
    assert!(set(text, &entry(MAIN)).contains("\nextra-substituters = https://h/main\nextra-trusted"));
    let text = "# substituters = https://h/main\nx-substituters = https://h/main\n";
    assert!(set(text, &entry(MAIN)).contains("\nextra-substituters = https://h/main\n"), "a comment says nothing");
}

#[test]
fn of_a_block_without_its_end_only_the_comment_is_removed() {
    let text = "# firn use https://h/main\nextra-substituters = https://h/main\nmine = 1\n";
    assert_eq!(urls(text), [MAIN]);
    assert_eq!(remove(text, MAIN), "extra-substituters = https://h/main\nmine = 1\n");
}

#[test]
fn a_block_says_all_that_its_cache_needs_whatever_other_blocks_say() {
    let private = |url| Entry { keys: vec!["shared-1:AAAA".into()], netrc_file: Some("/n".into()), ..entry(url) };
    let (a, b) = (private("https://h/a"), private("https://h/b"));
    let both = set(&set("x = y\n", &a), &b);
    assert_eq!(remove(&both, &a.url), set("x = y\n", &b));
    assert_eq!(remove(&both, &b.url), set("x = y\n", &a));
    assert_eq!((set(&both, &a), set(&both, &b)), (both.clone(), both));
}

#[test]
fn a_block_goes_behind_what_undoes_it_and_stays_where_it_is_else() {
    let (main, other) = (entry(MAIN), entry("https://h/other"));
    let text = format!("{}cores = 4\n{}", set("", &main), set("", &other));
    let new = Entry { keys: vec!["main-2:BBBB".into()], ..main.clone() };
    assert_eq!(set(&text, &new), text.replace("main-1:AAAA", "main-2:BBBB"));
    let undone = text.replace("cores = 4", "substituters = https://cache.nixos.org");
    let moved = set(&undone, &main);
    assert_eq!(moved, format!("{}{}", remove(&undone, MAIN), set("", &main)));
    assert_eq!(set(&moved, &main), moved);
    let twice = format!("{text}{}", set("", &main));
    assert_eq!(urls(&set(&twice, &main)), ["https://h/other", MAIN]);
}
