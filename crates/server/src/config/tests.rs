use std::time::Duration;

use super::*;

fn problems(text: &str) -> Vec<&'static str> {
    match Config::parse(text).expect("the syntax is good").check("test") {
        Ok(()) => Vec::new(),
        Err(ConfigError::Invalid { problems, .. }) => problems.into_iter().map(|problem| problem.key).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_example_says_what_the_code_does() {
    assert_eq!(Config::parse(EXAMPLE), Ok(Config::default()));
    // Every key is in its section, the ones without a default as a comment.
    let explains = |text: &str, key: &str| {
        text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")))
    };
    let whole = toml::Table::try_from(Config::default()).expect("serialises");
    for (section, keys) in whole.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
        let (_, rest) = EXAMPLE.split_once(&format!("\n[{section}]\n")).expect("every section is in it");
        let text = rest.split("\n[").next().unwrap_or_default();
        for key in keys.keys() {
            assert!(explains(text, key), "{section}.{key} is not explained");
        }
    }
    for key in ["tls-cert", "tls-key", "data", "public-url", "endpoint", "sample-ratio"] {
        assert!(explains(EXAMPLE, key), "{key} is not explained");
    }
}

#[test]
fn the_example_stays_good_with_every_comment_taken_off_its_keys() {
    let text: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if [" = \"", " = [", " = {", "[["].iter().any(|mark| rest.contains(mark)) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = Config::parse(&text).expect("parses");
    assert!(config.server.tls_cert.is_some() && config.server.public_url.is_some());
    assert_eq!(config.oidc.len(), 1);
    config.check("test").expect("is good");
}

#[test]
fn an_empty_file_means_the_defaults_and_they_are_good() {
    assert_eq!(Config::parse(""), Ok(Config::default()));
    Config::default().check("the defaults").expect("good");
}

#[test]
fn syntax_errors_say_where_and_what_is_allowed() {
    let table = [
        ("[server]\nlisten = \"localhost\"\n", "line 2", "an IP address and a port"),
        ("[server]\nlisten = [\"127.0.0.1:80\", \"x\"]\n", "line 2", "'x' is no address"),
        ("[server]\nlisten = 8080\n", "line 2", "address and port in quotes"),
        ("[server]\nlisen = \"127.0.0.1:1\"\n", "line 2", "unknown field `lisen`"),
        ("[sever]\n", "line 1", "unknown field `sever`"),
        ("[server]\nidle-timeout = \"2 fortnights\"\n", "line 2", "'2 fortnights' is no length of time"),
        ("[server]\nidle-timeout = 180\n", "line 2", "a length of time in quotes"),
        ("[store]\npack-size = \"many\"\n", "line 2", "'many' is no size"),
        ("[store]\npack-size = 32\n", "line 2", "a size in quotes"),
        ("[store]\nmax-nar-size = \"-1 GiB\"\n", "line 2", "no size"),
        ("[log]\nformat = \"xml\"\n", "line 2", "`text`"),
        ("[log]\nlevel = \"loud\"\n", "line 2", "`debug`"),
        ("[server\n", "line 1", "]"),
        ("[server]\nmax-uploads = -1\n", "line 2", "usize"),
    ];
    for (text, place, allowed) in table {
        let error = Config::parse(text).expect_err(text);
        assert!(error.contains(place) && error.contains(allowed), "{text:?} gave: {error}");
    }
}

#[test]
fn values_out_of_bounds_name_their_key() {
    let table = [
        ("[server]\nlisten = []", "server.listen"),
        ("[server]\ntls-cert = \"a.pem\"", "server.tls-cert"),
        ("[server]\ntls-key = \"a.pem\"", "server.tls-cert"),
        ("[server]\npublic-url = \"cache.example.org\"", "server.public-url"),
        ("[server]\npublic-url = \"https://cache.example.org/\"", "server.public-url"),
        ("[server]\npublic-url = \"https://\"", "server.public-url"),
        ("[server]\nidle-timeout = \"119 s\"", "server.idle-timeout"),
        ("[server]\nheader-timeout = \"0 s\"", "server.header-timeout"),
        ("[server]\nbody-timeout = \"10 ms\"", "server.body-timeout"),
        ("[server]\nshutdown-grace = \"2 d\"", "server.shutdown-grace"),
        ("[server]\nmax-connections = 0", "server.max-connections"),
        ("[server]\nmax-uploads = 0", "server.max-uploads"),
        ("[server]\nmax-downloads = 1000000", "server.max-downloads"),
        ("[server]\ndata = \"\"", "server.data"),
        ("[server]\ntls-cert = \"\"\ntls-key = \"a.pem\"", "server.tls-cert"),
        ("[gc]\ninterval = \"1 ms\"", "gc.interval"),
        ("[gc]\ninterval = \"59 s\"", "gc.interval"),
        ("[scrub]\nevery = \"1 ms\"", "scrub.every"),
        ("[usage]\nreport-interval = \"1 ms\"", "usage.report-interval"),
        ("[store]\ncompression-level = 0", "store.compression-level"),
        ("[store]\ncompression-level = 20", "store.compression-level"),
        ("[store]\npack-size = \"65 MiB\"", "store.pack-size"),
        ("[store]\nframe-cache = \"1 MiB\"", "store.frame-cache"),
        ("[store]\nmax-nar-size = \"1 B\"", "store.max-nar-size"),
        ("[store]\nnar-lease = \"1 s\"", "store.nar-lease"),
        ("[traces]\nendpoint = \"127.0.0.1:4318\"", "traces.endpoint"),
        ("[traces]\nendpoint = \"grpc://127.0.0.1:4317\"", "traces.endpoint"),
        ("[traces]\nendpoint = \"http://user:password@127.0.0.1:4318/v1/traces\"", "traces.endpoint"),
        ("[traces]\nsample-ratio = 1.1", "traces.sample-ratio"),
        ("[traces]\nsample-ratio = nan", "traces.sample-ratio"),
    ];
    for (text, key) in table {
        assert_eq!(problems(text), [key], "{text}");
    }
    for never in ["[gc]\ninterval = \"0 s\"", "[scrub]\nevery = \"0 s\"", "[usage]\nreport-interval = \"0 s\""] {
        assert_eq!(problems(never), [] as [&str; 0], "{never}");
    }
    assert_eq!(problems("[server]\nmax-uploads = 0\n[store]\npack-size = \"1 B\"").len(), 2, "all are told at once");
}

#[test]
fn traces_need_a_build_that_can_send_them() {
    let expected: &[&str] = if cfg!(feature = "otel") { &[] } else { &["traces.enabled"] };
    assert_eq!(problems("[traces]\nenabled = true"), expected);
    // So that one file serves both builds.
    assert!(problems("[traces]\nendpoint = \"https://collector:4318/v1/traces\"\nsample-ratio = 0").is_empty());
}

#[test]
fn a_file_is_read_with_paths_from_its_own_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("firnd.toml");
    std::fs::write(&path, "[server]\ndata = \"d\"\ntls-cert = \"/etc/c.pem\"\ntls-key = \"k.pem\"\n").expect("written");
    let config = Config::load(&path).expect("good");
    assert_eq!(config.server.data, Some(folder.path().join("d")));
    assert_eq!(config.server.tls_cert, Some("/etc/c.pem".into()));
    assert_eq!(config.server.tls_key, Some(folder.path().join("k.pem")));
}

#[test]
fn a_file_that_is_missing_large_or_bad_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("firnd.toml");
    let error = Config::load(&path).expect_err("missing");
    assert!(matches!(error, ConfigError::Read { .. }) && error.to_string().contains("firnd.toml"), "{error}");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).expect("written");
    assert!(matches!(Config::load(&path), Err(ConfigError::Syntax { .. })));
    std::fs::write(&path, "[server]\nmax-uploads = 0\n").expect("written");
    let error = Config::load(&path).expect_err("out of bounds").to_string();
    assert!(
        error.contains("firnd.toml") && error.contains("server.max-uploads is 0: allowed are 1 to 10000"),
        "{error}"
    );
}

#[test]
fn spans_are_read_and_shown() {
    let table = [
        ("90 s", 90_000, "1 m 30 s"),
        ("24h", 86_400_000, "1 d"),
        ("1h 30m", 5_400_000, "1 h 30 m"),
        ("30 d", 2_592_000_000, "30 d"),
        ("1w1ms", 604_800_001, "7 d 1 ms"),
        ("0s", 0, "0 s"),
        (" 5 min ", 300_000, "5 m"),
    ];
    for (text, ms, shown) in table {
        let span: Span = text.parse().expect(text);
        assert_eq!((span.0, span.to_string()), (Duration::from_millis(ms), shown.to_owned()), "{text}");
        assert_eq!(shown.parse(), Ok(span), "{shown}");
    }
    for bad in ["", "5", "s", "-5 s", "1.5 h", "5 s 3", "5 years", "99999999999999999999 s", "18446744073709551615 w"] {
        assert!(bad.parse::<Span>().is_err(), "{bad:?}");
    }
}

#[test]
fn sizes_are_read_and_shown() {
    let table = [
        ("64 MiB", 64 << 20, "64.0 MiB"),
        ("1kB", 1000, "1000 B"),
        ("1.5 GiB", 3 << 29, "1.5 GiB"),
        ("512 B", 512, "512 B"),
    ];
    for (text, bytes, shown) in table {
        let size: Size = text.parse().expect(text);
        assert_eq!((size.0, size.to_string()), (bytes, shown.to_owned()), "{text}");
    }
    for bad in ["", "MiB", "-1 MiB", "1 XB", "99999999 EiB", "nan GiB", "inf GiB"] {
        assert!(bad.parse::<Size>().is_err(), "{bad:?}");
    }
}
