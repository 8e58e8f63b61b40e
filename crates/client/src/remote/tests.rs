use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use firn_api::{PathAnswer, PathStatus};
use firn_chunk::{ChunkId, RecipeId};
use firn_nix::{StoreHash, StorePath};
use tokio::time::Instant;

use super::*;
use crate::Refusal;

/// What a scripted server answers to one request.
type Answer = Result<(u16, Vec<(&'static str, &'static str)>, Vec<u8>), Broken>;

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Request>>,
}

/// A server that answers what it was told to, in order.
#[derive(Clone, Default)]
struct Fake(Arc<Script>);

impl Transport for Fake {
    fn send(&self, request: Request) -> Sending<'_> {
        self.0.seen.lock().unwrap().push(request);
        let answer = self.0.answers.lock().unwrap().pop_front().expect("the script has an answer");
        Box::pin(async move {
            let (status, headers, body) = answer?;
            let header = |name| headers.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            // The whole body in small pieces, then perhaps a break.
            let mut pieces: Vec<_> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            if header("cut").is_some() {
                pieces.pop();
                pieces.push(Err(Broken::new(BrokenKind::Cut, "cut")));
            }
            let body = Body::script(pieces);
            Ok(Reply { status, retry_after: header("retry-after"), location: header("location"), body })
        })
    }
}

struct Half;

impl Jitter for Half {
    fn fraction(&self) -> f64 {
        0.5
    }
}

fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Ok((200, vec![], body.into()))
}

fn refuse(status: u16, code: &str) -> Answer {
    Ok((status, vec![], format!(r#"{{"code":"{code}","message":"m","hint":"h"}}"#).into_bytes()))
}

fn broken(kind: BrokenKind) -> Answer {
    Err(Broken::new(kind, "it broke"))
}

fn capabilities() -> Answer {
    ok(serde_json::to_vec(&Capabilities::current("firnd 9".to_owned(), ChunkerId::CURRENT)).unwrap())
}

fn session(digit: char) -> Answer {
    let digits = digit.to_string().repeat(32);
    ok(format!(r#"{{"session":"{digits}","lease_seconds":600}}"#))
}

fn script(answers: impl IntoIterator<Item = Answer>) -> Fake {
    let fake = Fake::default();
    fake.0.answers.lock().unwrap().extend(answers);
    fake
}

async fn open(fake: &Fake) -> Result<Remote> {
    let options = RemoteOptions { jitter: Arc::new(Half), ..RemoteOptions::default() };
    let target = Target::parse("https://a.org/main", Some(Token::parse("sesame")?))?;
    Remote::connect_by(target, Box::new(fake.clone()), Arc::default(), options).await
}

/// Connects, then answers what the script says.
async fn connected(answers: impl IntoIterator<Item = Answer>) -> (Fake, Remote) {
    let fake = script([capabilities()].into_iter().chain(answers));
    let remote = open(&fake).await.unwrap();
    (fake, remote)
}

fn paths(fake: &Fake) -> Vec<String> {
    let seen = fake.0.seen.lock().unwrap();
    seen.iter().map(|request| request.path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

fn kind(error: &Error) -> Refusal {
    match error {
        Error::Refused { kind, .. } => *kind,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_nothing_else() {
    for (answer, tries) in [
        (broken(BrokenKind::Unreachable), 2),
        (broken(BrokenKind::Cut), 2),
        (broken(BrokenKind::Idle), 2),
        (broken(BrokenKind::Impossible), 1),
        (refuse(503, "busy"), 2),
        (refuse(507, "storage-full"), 2),
        (refuse(502, ""), 2),
        (refuse(429, ""), 2),
        (refuse(401, "bad-token"), 1),
        (refuse(403, "forbidden"), 1),
        (refuse(400, "bad-request"), 1),
        (refuse(413, ""), 1),
        (refuse(404, ""), 1),
        (refuse(418, ""), 1),
        (Ok((200, vec![("cut", "")], b"123456789".to_vec())), 2),
        (ok("no JSON"), 1),
        (ok(vec![b' '; 300 << 10]), 1),
    ] {
        let fake = script([answer, capabilities()]);
        let opened = open(&fake).await;
        assert_eq!(fake.0.seen.lock().unwrap().len(), tries, "{opened:?}");
        assert_eq!(opened.is_ok(), tries == 2);
    }
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_in_the_end_and_says_why() {
    let fake = script((0..99).map(|_| broken(BrokenKind::Unreachable)));
    let began = Instant::now();
    let error = open(&fake).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { tries, .. } if *tries > 10), "{error}");
    assert!(error.to_string().ends_with(" tries)"), "{error}");
    assert!(error.may_pass());
    let limit = RetryPolicy::default().give_up_after;
    assert!(began.elapsed() <= limit && began.elapsed() > limit / 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_names_a_time_is_waited_for() {
    for (header, body, least, most) in
        [("7", "", 7, 8), ("99999999", "", 120, 133), ("nonsense", r#"{"retry_after":5}"#, 5, 6)]
    {
        let busy = Ok((503, vec![("retry-after", header)], body.into()));
        let began = Instant::now();
        let fake = script([busy, capabilities()]);
        open(&fake).await.unwrap();
        let waited = began.elapsed();
        assert!(Duration::from_secs(least) <= waited && waited <= Duration::from_secs(most), "{header} {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_code_and_hint_and_no_token() {
    let (_, remote) = connected([refuse(403, "not-granted")]).await;
    let error = remote.describe().await.unwrap_err();
    assert_eq!(kind(&error), Refusal::Access);
    let text = error.to_string();
    assert!(text.contains("403 not-granted: m (h)") && !text.contains("sesame"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn refusals_of_others_than_firnd_are_explained() {
    let page = b"<html>413</html>".to_vec();
    for (answer, expected) in [
        (Ok((413, vec![], page.clone())), "client_max_body_size"),
        (Ok((407, vec![], vec![])), "https_proxy"),
        (Ok((401, vec![], vec![])), "it gives no reason"),
        (Ok((405, vec![], b"go away".to_vec())), "go away"),
        (ok(page), "a page of HTML"),
    ] {
        let (_, remote) = connected([answer]).await;
        let error = remote.missing_paths(&[StoreHash([0; 20])]).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("<html>"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_are_not_followed() {
    let (fake, remote) = connected([Ok((301, vec![("location", "https://evil.org/")], vec![]))]).await;
    let error = remote.describe().await.unwrap_err();
    assert!(error.to_string().contains("https://evil.org/"), "{error}");
    assert_eq!(fake.0.seen.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn other_versions_and_other_cuts_are_refused() {
    let text = |capabilities: &Capabilities| ok(serde_json::to_vec(capabilities).unwrap());
    let current = Capabilities::current("firnd 9".to_owned(), ChunkerId::CURRENT);
    let newer = Capabilities { versions: vec![2], ..current.clone() };
    assert!(matches!(open(&script([text(&newer)])).await, Err(Error::Mismatch(_))));
    let other = Capabilities { chunker: "nar-fastcdc-v2020/1-2-3/1".to_owned(), ..current.clone() };
    assert!(matches!(open(&script([text(&other)])).await, Err(Error::Mismatch(_))));
    let mut tiny = current;
    tiny.limits.frame_raw_bytes = 9;
    assert!(matches!(open(&script([text(&tiny)])).await, Err(Error::Nonsense { .. })));
    assert!(matches!(open(&script([ok("<html>hello</html>")])).await, Err(Error::Nonsense { .. })));
    let html = Ok((404, vec![], b"<html>\x1b[2J".to_vec()));
    let error = open(&script([html])).await.unwrap_err();
    assert_eq!(kind(&error), Refusal::Unsupported);
    assert!(!error.to_string().contains('\x1b'));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_begun_once_named_and_replaced_when_it_is_over() {
    let (fake, remote) =
        connected([session('a'), ok([1]), ok([0]), refuse(409, "session-expired"), session('b'), ok([1])]).await;
    for _ in 0..3 {
        remote.missing_chunks(&[ChunkId([1; 32])]).await.unwrap();
    }
    let ask = "missing-chunks";
    assert_eq!(paths(&fake), ["capabilities", "sessions", ask, ask, ask, "sessions", ask]);
    assert_eq!(remote.session_count(), 2);
    let seen = fake.0.seen.lock().unwrap();
    let named: Vec<_> =
        seen.iter().map(|request| request.headers.iter().find(|(name, _)| *name == "firn-session")).collect();
    assert!(named[0].is_none() && named[1].is_none() && !seen[0].with_token && seen[1].with_token);
    assert_eq!(named[4].unwrap().1, "a".repeat(32));
    assert_eq!(named[6].unwrap().1, "b".repeat(32));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forgets_every_session_is_given_up() {
    let forgetful = (0..99).flat_map(|_| [session('a'), refuse(409, "session-expired")]);
    let (fake, remote) = connected(forgetful).await;
    let error = remote.known_recipes(&[RecipeId([1; 32])]).await.unwrap_err();
    assert_eq!(kind(&error), Refusal::Session);
    assert!(fake.0.seen.lock().unwrap().len() < 20);
}

#[tokio::test(start_paused = true)]
async fn bitmaps_of_a_wrong_length_are_nonsense() {
    let ids = [ChunkId([1; 32]); 9];
    for bad in [vec![], vec![0], vec![0, 2], vec![0; 3], vec![0; 1 << 20]] {
        let (_, remote) = connected([session('a'), ok(bad)]).await;
        assert!(matches!(remote.missing_chunks(&ids).await, Err(Error::Nonsense { .. })));
    }
    let (_, remote) = connected([session('a'), ok([0b10, 1])]).await;
    let bits = remote.missing_chunks(&ids).await.unwrap();
    assert_eq!(bits, [false, true, false, false, false, false, false, false, true]);
    assert_eq!(remote.missing_chunks(&[]).await.unwrap(), [] as [bool; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_cut_is_sent_again() {
    let path: StorePath = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-a".parse().unwrap();
    let created = PathAnswer::new(path.clone(), PathStatus::Created);
    let line = created.to_line();
    let half = line[..9].to_vec();
    let (fake, remote) = connected([
        session('a'),
        Ok((200, vec![("cut", "")], half.clone())),
        ok(half),
        ok([b"\n\n", &line[..]].concat()),
    ])
    .await;
    let body = vec![b'x'; 1000];
    assert_eq!(remote.commit(&body, std::slice::from_ref(&path)).await.unwrap(), [created]);
    {
        let seen = fake.0.seen.lock().unwrap();
        assert!(seen[2..].iter().all(|request| request.body.len() < 100));
        assert_eq!(seen.len(), 5);
    }
    let (_, remote) = connected([session('a'), ok("{}\n")]).await;
    assert!(matches!(remote.commit(b"x", &[path]).await, Err(Error::Nonsense { .. })));
}

#[tokio::test(start_paused = true)]
async fn long_recipes_go_in_parts() {
    let mut limits = Capabilities::current(String::new(), ChunkerId::CURRENT);
    limits.limits.recipe_bytes = 4;
    let fake = script([ok(serde_json::to_vec(&limits).unwrap()), session('a'), ok(""), ok(""), ok("")]);
    let remote = open(&fake).await.unwrap();
    remote.upload_recipe(RecipeId([1; 32]), Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(paths(&fake)[2..], ["0?length=10", "4?length=10", "8?length=10"]);
    let seen = fake.0.seen.lock().unwrap();
    assert_eq!([&seen[2].body[..], &seen[3].body, &seen[4].body].concat(), b"0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_recipe_goes_in_smaller_parts_where_a_proxy_takes_no_longer_ones() {
    let answers = [session('a'), refuse(413, ""), refuse(413, ""), ok(""), ok(""), refuse(413, "")];
    let (fake, remote) = connected(answers).await;
    let recipe = Bytes::from(vec![7; 200_000]);
    let failed = remote.upload_recipe(RecipeId([1; 32]), recipe).await.unwrap_err();
    assert!(matches!(failed, Error::Refused { kind: Refusal::TooLarge, .. }), "it does not go on for ever");
    let lens: Vec<_> = fake.0.seen.lock().unwrap()[2..].iter().map(|request| request.body.len()).collect();
    assert_eq!(lens, [200_000, 100_000, 50_000, 50_000, 50_000]);
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_is_told_and_forgotten() {
    let (fake, remote) = connected([session('a'), ok([1]), ok("")]).await;
    remote.end_session().await;
    remote.missing_chunks(&[ChunkId([1; 32])]).await.unwrap();
    remote.end_session().await;
    remote.end_session().await;
    assert_eq!(paths(&fake)[3], "a".repeat(32));
    assert_eq!(fake.0.seen.lock().unwrap().len(), 4);
}
