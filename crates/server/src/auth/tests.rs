use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use firn_index::memory::MemoryMeta;
use firn_index::{CacheName, Meta, TokenId, TokenRow, Verb};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::*;

const NOW: u64 = 1_000_000;

fn token(id: u64) -> Token {
    Token::new(TokenId(id), [u8::try_from(id % 251).expect("small"); 32])
}

fn row(id: u64, grants: &[&str]) -> TokenRow {
    TokenRow {
        secret_hash: token(id).secret_hash(),
        builder: format!("builder-{id}"),
        grants: grants.iter().map(|text| parse_grant(text).expect(text)).collect(),
        created_at: 1,
        expires_at: None,
        revoked_at: None,
    }
}

fn tokens(rows: Vec<(u64, TokenRow)>) -> Tokens {
    let rows: HashMap<_, _> = rows.into_iter().map(|(id, row)| (TokenId(id), row)).collect();
    Tokens { rows: RwLock::new(Arc::new(rows)), issued: Default::default() }
}

fn bearer(text: &str) -> HeaderMap {
    with(&format!("Bearer {text}"))
}

fn basic(user: &str, password: &str) -> HeaderMap {
    with(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn with(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
    headers
}

fn cache(name: &str) -> CacheName {
    name.parse().expect("a name")
}

fn deny(tokens: &Tokens, headers: &HeaderMap, name: &str, verb: Verb) -> Option<Denial> {
    tokens.authorise(headers, &cache(name), false, verb, NOW).err()
}

#[test]
fn what_is_wrong_with_a_token_is_told_apart() {
    let revoked = TokenRow { revoked_at: Some(5), ..row(2, &["main:pull,push"]) };
    let expired = TokenRow { expires_at: Some(NOW), ..row(3, &["main:pull,push"]) };
    let both = TokenRow { revoked_at: Some(5), expires_at: Some(6), ..row(4, &["main:pull,push"]) };
    let lasting = TokenRow { expires_at: Some(NOW + 1), ..row(5, &["main:push"]) };
    let tokens = tokens(vec![(1, row(1, &["main:push"])), (2, revoked), (3, expired), (4, both), (5, lasting)]);
    let reveal = |id| token(id).reveal().to_string();
    let table = [
        (HeaderMap::new(), Some(Denial::NoCredentials)),
        (bearer(&reveal(1)), None),
        (bearer(&reveal(2)), Some(Denial::Revoked)),
        (bearer(&reveal(3)), Some(Denial::Expired)),
        (bearer(&reveal(4)), Some(Denial::Revoked)),
        (bearer(&reveal(5)), None),
        (bearer(&reveal(6)), Some(Denial::BadToken)),
        (bearer("hello"), Some(Denial::BadToken)),
        (bearer(""), Some(Denial::BadToken)),
        (bearer(&reveal(1)[..68]), Some(Denial::Mistyped)),
        (with(&format!("bEaReR  {}", reveal(1))), None),
        (with(&format!("Digest {}", reveal(1))), Some(Denial::BadToken)),
        (with(&reveal(1)), Some(Denial::BadToken)),
        (basic("anyone", &reveal(1)), None),
        (basic("", &reveal(1)), None),
        (basic(&reveal(1), ""), Some(Denial::NoCredentials)),
        (basic("x", "hello"), Some(Denial::BadToken)),
        (with("Basic !!!"), Some(Denial::BadToken)),
        (with(&format!("Basic {}", STANDARD.encode("no colon"))), Some(Denial::BadToken)),
        (with(&format!("Basic {}", STANDARD.encode([0xff, b':', 0xff]))), Some(Denial::BadToken)),
    ];
    for (number, (headers, expected)) in table.into_iter().enumerate() {
        assert_eq!(deny(&tokens, &headers, "main", Verb::Push), expected, "row {number}");
    }
}

#[test]
fn a_secret_of_another_token_does_not_count() {
    let tokens = tokens(vec![(1, row(1, &["main:push"]))]);
    let stolen = Token::new(TokenId(1), [9; 32]).reveal();
    assert_eq!(deny(&tokens, &bearer(&stolen), "main", Verb::Push), Some(Denial::BadToken));
}

#[test]
fn two_credentials_are_none() {
    let tokens = tokens(vec![(1, row(1, &["main:push"]))]);
    let mut headers = bearer(&token(1).reveal());
    headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer other"));
    assert_eq!(deny(&tokens, &headers, "main", Verb::Push), Some(Denial::BadToken));
}

#[test]
fn all_grants_that_match_count() {
    let table: [(&[&str], &str, Verb, bool); 15] = [
        (&["main:push"], "main", Verb::Push, true),
        (&["main:push"], "main", Verb::Pull, false),
        (&["main:pull"], "main", Verb::Push, false),
        (&["main:push"], "main2", Verb::Push, false),
        (&["main:pull", "main:push"], "main", Verb::Push, true),
        (&["*:pull", "main:push"], "main", Verb::Push, true),
        (&["*:pull", "main:push"], "other", Verb::Push, false),
        (&["*:pull", "main:push"], "other", Verb::Pull, true),
        (&["team-*:push"], "team-", Verb::Push, true),
        (&["team-*:push"], "team-a.b_c", Verb::Push, true),
        (&["team-*:push"], "my-team-a", Verb::Push, false),
        (&["*-prod:push"], "a-prod-prod", Verb::Push, true),
        (&["a*b*c:push"], "aXbXbXc".to_ascii_lowercase().leak(), Verb::Push, true),
        (&["a*b*c:push"], "acb", Verb::Push, false),
        (&["**:push"], "x", Verb::Push, true),
    ];
    for (grants, name, verb, expected) in table {
        let tokens = tokens(vec![(1, row(1, grants))]);
        let expected = if expected { None } else { Some(Denial::NotGranted) };
        assert_eq!(deny(&tokens, &bearer(&token(1).reveal()), name, verb), expected, "{grants:?} {name} {verb:?}");
    }
}

#[test]
fn anyone_may_pull_from_a_public_cache_and_nothing_else() {
    let tokens = tokens(vec![(1, row(1, &["main:pull"]))]);
    let good = bearer(&token(1).reveal());
    for headers in [HeaderMap::new(), bearer("nonsense"), basic("a", "b")] {
        let access = tokens.authorise(&headers, &cache("main"), true, Verb::Pull, NOW).expect("public");
        assert_eq!(access.uploader.token, None);
        assert!(tokens.authorise(&headers, &cache("main"), true, Verb::Push, NOW).is_err());
    }
    let access = tokens.authorise(&good, &cache("main"), true, Verb::Pull, NOW).expect("public");
    assert_eq!(access.uploader.token, Some(TokenId(1)), "a good token is still recognised");
}

#[test]
fn changes_count_from_the_next_request_on() {
    let meta = MemoryMeta::new();
    meta.put_token(&TokenId(1), &row(1, &["main:push"])).expect("written");
    let tokens = Tokens::load(&meta).expect("read");
    let headers = bearer(&token(1).reveal());
    assert_eq!(deny(&tokens, &headers, "main", Verb::Push), None);
    meta.put_token(&TokenId(1), &TokenRow { revoked_at: Some(1), ..row(1, &["main:push"]) }).expect("written");
    tokens.refresh(&meta).expect("read");
    assert_eq!(deny(&tokens, &headers, "main", Verb::Push), Some(Denial::Revoked));
}

#[test]
fn a_token_is_what_it_was_after_being_written_down() {
    let made = Token::new(TokenId(0x0123_4567_89ab_cdef), [0xa5; 32]);
    let text = made.reveal().to_string();
    assert!(text.starts_with("firn_0123456789abcdef_") && text.len() == 69, "{text}");
    let read: Token = text.parse().expect("reads");
    assert_eq!((read.id(), read.secret_hash()), (made.id(), made.secret_hash()));
    assert!(!format!("{made:?}").contains("paWl"), "Debug shows no secret");
}

#[test]
fn every_typo_is_noticed() {
    let text = token(7).reveal().to_string();
    for at in 5..text.len() {
        for other in ['A', 'z', '0', '_'] {
            let mut typo: Vec<char> = text.chars().collect();
            if typo[at] == other {
                continue;
            }
            typo[at] = other;
            let typo: String = typo.into_iter().collect();
            assert_eq!(typo.parse::<Token>().err(), Some(TokenError::Mistyped), "{typo}");
        }
    }
    for cut in 22..text.len() {
        assert_eq!(text[..cut].parse::<Token>().err(), Some(TokenError::Mistyped), "cut at {cut}");
    }
    for foreign in ["", "firn_", "hunter2", "firn_ä", "Firn_0123456789abcdef_x", &"firn_".repeat(100)] {
        assert_eq!(foreign.parse::<Token>().err(), Some(TokenError::NotAToken), "{foreign}");
    }
}

#[test]
fn grants_are_read_strictly() {
    for good in ["main:pull", "main:push,pull", "*:pull", "team-*:pull,push", "a.b_c-d:push"] {
        parse_grant(good).expect(good);
    }
    assert_eq!(parse_grant("main:push,pull,push").expect("reads").verbs, [Verb::Pull, Verb::Push]);
    for bad in [
        "",
        "main",
        "main:",
        ":pull",
        "main:read",
        "main:pull,",
        "Main:pull",
        "api:pull",
        "a b:pull",
        "main:pull:push",
        "../x:pull",
    ] {
        assert!(parse_grant(bad).is_err(), "{bad}");
    }
}
