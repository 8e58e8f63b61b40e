//! A server in this process, and what the tests send to it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use firn_engine::{Clock, Engine, Entropy, Options, PathDeletion};
use firn_index::memory::{MemoryChunkIndex, MemoryMeta};
use firn_index::{CacheName, CacheRow, Commit, Grant, Meta as _, Op, TokenId, TokenRow, Transport, UnixSeconds, Verb};
use firn_nix::{SecretKey, Sha256, StoreHash, StorePath};
use firn_server::app::App;
use firn_server::auth::Token;
use firn_server::config::{Config, Size, Span};
use firn_server::http::Body;
use firn_server::http::codec::{Codec, Encoder};
use firn_storage::Memory;
use firn_testkit::http::{Answer, Request};
use firn_testkit::nar::Node;
use http_body_util::{BodyExt as _, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A clock that stands.
pub(crate) struct Standing(AtomicU64);

impl Clock for Standing {
    fn now(&self) -> UnixSeconds {
        self.0.load(Ordering::SeqCst)
    }
}

/// The same clock as the engine sees it, and what is to happen once it looks next: a request makes it look when it notes a use.
struct Looked {
    clock: Arc<Standing>,
    next: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Clock for Looked {
    fn now(&self) -> UnixSeconds {
        let next = self.next.lock().unwrap().take();
        if let Some(happen) = next {
            happen();
        }
        self.clock.now()
    }
}

struct Counting(AtomicU64);

impl Entropy for Counting {
    fn draw(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::SeqCst)) << 64 | 7
    }
}

/// How a world differs from the usual one.
pub(crate) struct Settings {
    pub(crate) max_uploads: usize,
    pub(crate) max_downloads: usize,
    pub(crate) max_nar_bytes: u64,
    pub(crate) body_timeout_ms: u64,
    pub(crate) frame_cache_bytes: u64,
    pub(crate) anonymous_daily: u64,
    /// What its random numbers begin with.
    pub(crate) seed: u64,
    pub(crate) oidc: Vec<firn_server::oidc::Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_uploads: 8,
            max_downloads: 64,
            max_nar_bytes: 64 << 20,
            body_timeout_ms: 20_000,
            frame_cache_bytes: 32 << 20,
            anonymous_daily: 0,
            seed: 1,
            oidc: Vec::new(),
        }
    }
}

/// A server with the public cache `pub` (zstd), the private cache `priv` (none), and tokens.
pub(crate) struct World {
    pub(crate) app: Arc<App>,
    pub(crate) storage: Memory,
    pub(crate) meta: Arc<MemoryMeta>,
    pub(crate) address: SocketAddr,
    /// May push to and pull from every cache.
    pub(crate) token: String,
    clock: Arc<Standing>,
    looked: Arc<Looked>,
    runtime: tokio::runtime::Runtime,
}

pub(crate) fn cache_row() -> CacheRow {
    let key = SecretKey::generate("test-1", [5; 32]).unwrap();
    CacheRow { public: true, signing_keys: vec![key.to_text().to_string()], ..CacheRow::new(1) }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (storage, meta) = (Memory::new(), Arc::new(MemoryMeta::new()));
        let private = CacheRow { public: false, transport: Transport::None, ..cache_row() };
        meta.put_cache(&"pub".parse().unwrap(), &cache_row()).unwrap();
        meta.put_cache(&"priv".parse().unwrap(), &private).unwrap();
        let clock = Arc::new(Standing(AtomicU64::new(1_000_000)));
        let looked = Arc::new(Looked { clock: Arc::clone(&clock), next: Mutex::default() });
        let options = Options {
            max_nar_bytes: settings.max_nar_bytes,
            min_free_bytes: 1 << 20,
            frame_cache_bytes: settings.frame_cache_bytes,
            ..Options::default()
        };
        let engine = Engine::open(
            Arc::new(storage.clone()),
            Arc::clone(&meta) as _,
            Arc::new(MemoryChunkIndex::new()),
            Arc::clone(&looked) as _,
            Arc::new(Counting(AtomicU64::new(settings.seed))),
            options,
        )
        .unwrap();
        let mut config = Config::default();
        config.server.max_uploads = settings.max_uploads;
        config.server.max_downloads = settings.max_downloads;
        config.server.body_timeout = Span(std::time::Duration::from_millis(settings.body_timeout_ms));
        config.store.max_nar_size = Size(settings.max_nar_bytes);
        config.upstream.anonymous_daily = Size(settings.anonymous_daily);
        config.oidc = settings.oidc.clone();
        let squeezer = firn_server::squeeze::Squeezer::start(engine.clone(), &config.squeeze).unwrap();
        let app = Arc::new(App::new(engine, config, Arc::clone(&clock) as _, squeezer).unwrap());
        let address = runtime.block_on(listen(Arc::clone(&app)));
        let mut world = Self { app, storage, meta, address, token: String::new(), clock, looked, runtime };
        world.token = world.make_token(1, "*", &[Verb::Push, Verb::Pull], |_| {});
        world
    }

    /// Returns what its clock says.
    pub(crate) fn now(&self) -> UnixSeconds {
        self.clock.now()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Changes the index once the engine looks at its clock next; returns a function that says if that has happened.
    pub(crate) fn change_when_used(&self, op: Op) -> impl Fn() -> bool + use<> {
        let (meta, looked) = (Arc::clone(&self.meta), Arc::clone(&self.looked));
        let change = move || {
            let commit = Commit { session: None, packs: vec![], ops: vec![op] };
            meta.commit(1, &[commit]).unwrap()[0].clone().unwrap();
        };
        *looked.next.lock().unwrap() = Some(Box::new(change));
        move || looked.next.lock().unwrap().is_none()
    }

    /// Makes a token; `change` may spoil it.
    pub(crate) fn make_token(
        &self,
        id: u64,
        cache: &str,
        verbs: &[Verb],
        change: impl FnOnce(&mut TokenRow),
    ) -> String {
        let token = Token::new(TokenId(id), [id as u8; 32]);
        let mut row = TokenRow {
            secret_hash: token.secret_hash(),
            builder: format!("builder-{id}"),
            grants: vec![Grant { cache: cache.into(), verbs: verbs.to_vec() }],
            created_at: 1,
            expires_at: None,
            revoked_at: None,
        };
        change(&mut row);
        self.meta.put_token(&token.id(), &row).unwrap();
        self.app.tokens.refresh(self.meta.as_ref()).unwrap();
        token.reveal().to_string()
    }

    /// Changes or makes a cache.
    pub(crate) fn set_cache(&self, name: &str, change: impl FnOnce(&mut CacheRow)) {
        let name = name.parse().unwrap();
        let mut row = self.meta.cache(&name).unwrap().unwrap_or_else(cache_row);
        change(&mut row);
        self.meta.put_cache(&name, &row).unwrap();
        self.app.caches.refresh(self.meta.as_ref()).unwrap();
    }

    pub(crate) fn send(&self, request: Request) -> Answer {
        request.send(self.address).unwrap()
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.send(Request::get(target).token(&self.token))
    }

    pub(crate) fn head(&self, target: &str) -> Answer {
        self.send(Request::new("HEAD", target).token(&self.token))
    }

    /// Begins to GET something, and returns the answer with a body of which nothing was asked yet.
    pub(crate) fn begin(&self, target: &str, range: Option<&str>) -> http::Response<Body> {
        let mut request = http::Request::get(target);
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        self.begin_request(request)
    }

    /// Begins a request without a body.
    pub(crate) fn begin_request(&self, request: http::request::Builder) -> http::Response<Body> {
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        self.runtime.block_on(firn_server::http::handle(Arc::clone(&self.app), request))
    }

    /// Begins to GET something, and returns the first piece of its body as the connection is given it. What comes after that is
    /// not waited for.
    pub(crate) fn first_piece(&self, target: &str, range: Option<&str>) -> Bytes {
        let mut body = self.begin(target, range).into_body();
        self.runtime.block_on(body.frame()).unwrap().unwrap().into_data().unwrap()
    }

    pub(crate) fn put(&self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Request::put(target, body).token(&self.token))
    }

    /// Uploads a NAR in a compression, as Nix names it, and returns the file's name.
    pub(crate) fn put_nar(&self, cache: &str, nar: &[u8], codec: Codec) -> String {
        let file = encode(codec, nar);
        let name = file_name(&file, codec);
        let answer = self.put(&format!("/{cache}/nar/{name}"), file);
        assert_eq!(answer.status, 200, "{}", answer.text());
        name
    }

    /// Uploads a NAR as zstd and its narinfo.
    pub(crate) fn put_path(&self, cache: &str, package: &Package) {
        let name = self.put_nar(cache, &package.nar, Codec::Zstd);
        let answer = self.put(&format!("/{cache}/{}.narinfo", package.hash()), package.narinfo(&name, "zstd"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Deletes a path, as `firnd path delete` does.
    pub(crate) fn remove_path(&self, cache: &str, package: &Package) {
        let forget = |cache: &CacheName, gone: &[StoreHash]| {
            for hash in gone {
                self.app.http.forget_path(cache, hash);
            }
        };
        let done = self.app.engine.delete_path(&cache.parse().unwrap(), &package.path.hash(), true, &forget).unwrap();
        assert!(matches!(done, PathDeletion::Deleted(_)), "{done:?}");
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        use firn_storage::Storage as _;
        self.storage.list("packs/", None, 1000).unwrap().iter().map(|object| object.len).sum()
    }

    /// Waits until all turns were given back; a leak makes the test hang, and fail by its runner's time limit.
    pub(crate) fn wait_until_idle(&self, settings: &Settings) {
        while self.app.uploads.available() != settings.max_uploads
            || self.app.downloads.available() != settings.max_downloads
        {
            std::thread::yield_now();
        }
    }
}

async fn listen(app: Arc<App>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let app = Arc::clone(&app);
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(firn_server::http::handle(app, request).await) }
            });
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// A store path and its NAR.
#[derive(Clone)]
pub(crate) struct Package {
    pub(crate) path: StorePath,
    pub(crate) nar: Vec<u8>,
    pub(crate) references: Vec<StorePath>,
    pub(crate) extra: String,
}

impl Package {
    /// Returns a package that refers to itself.
    pub(crate) fn new(seed: u64, bytes: usize) -> Self {
        let path: StorePath = format!("{}-package-{seed}", hash_of(seed)).parse().unwrap();
        let tree = Node::directory([
            ("contents", Node::package(seed, bytes, &[path.to_absolute("/nix/store")])),
            ("self", Node::Symlink { target: path.to_absolute("/nix/store").into_bytes() }),
        ]);
        Self { nar: tree.encode(), references: vec![path.clone()], path, extra: String::new() }
    }

    /// Returns a package of a tree, without references.
    pub(crate) fn of(seed: u64, tree: &Node) -> Self {
        let path = format!("{}-tree-{seed}", hash_of(seed)).parse().unwrap();
        Self { nar: tree.encode(), references: vec![], path, extra: String::new() }
    }

    pub(crate) fn hash(&self) -> String {
        self.path.hash().to_string()
    }

    pub(crate) fn nar_hash(&self) -> Sha256 {
        Sha256::of(&self.nar)
    }

    /// Returns a narinfo for a file under `nar/`.
    pub(crate) fn narinfo(&self, file: &str, compression: &str) -> String {
        let references: Vec<String> = self.references.iter().map(ToString::to_string).collect();
        format!(
            "StorePath: /nix/store/{}\nURL: nar/{file}\nCompression: {compression}\nNarHash: {}\nNarSize: {}\nReferences: {}\n{}",
            self.path,
            self.nar_hash(),
            self.nar.len(),
            references.join(" "),
            self.extra
        )
    }
}

pub(crate) fn hash_of(seed: u64) -> String {
    firn_testkit::random::Random::new(seed).store_hash()
}

pub(crate) fn encode(codec: Codec, data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(codec).unwrap();
    encoder.write(data).unwrap();
    let mut encoded = encoder.take();
    encoded.extend(encoder.finish().unwrap());
    encoded
}

pub(crate) fn decode(codec: Codec, data: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut decoded = Vec::new();
    firn_server::http::codec::decoder(codec, data).unwrap().read_to_end(&mut decoded).unwrap();
    decoded
}

/// Returns the name that Nix gives to a file.
pub(crate) fn file_name(file: &[u8], codec: Codec) -> String {
    let extension = match codec {
        Codec::Zstd => ".zst",
        Codec::Xz => ".xz",
        Codec::Bzip2 => ".bz2",
        Codec::Brotli => ".br",
        Codec::Lz4 => ".lz4",
        Codec::Lzip => ".lzip",
        Codec::Identity | Codec::Gzip | Codec::Lzma | Codec::Compress => "",
    };
    format!("{}.nar{extension}", Sha256::of(file).to_nix32())
}

/// Returns the code at the beginning of a refusal.
pub(crate) fn code(answer: &Answer) -> String {
    answer.text().split(':').next().unwrap_or_default().to_owned()
}
