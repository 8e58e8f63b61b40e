//! Administration of a running server: a socket in its data directory that only its owner can open.
//!
//! The client sends one line of JSON, a [`Request`], and gets one line back, a [`Reply`]; then both hang up.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Admin, Answer, Failure, Request, execute};
use crate::app::App;
use crate::data_dir::{DataDir, DataError, IndexFiles, SystemEntropy};

/// The longest request, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// The longest answer, in bytes: about 50 000 tokens.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// How long the server waits for a request's line, and for its answer to be read.
const LINE_WAIT: Duration = Duration::from_secs(10);

/// How long a client waits for its answer: deleting a large cache takes a while.
const ANSWER_WAIT: Duration = Duration::from_secs(600);

/// How long a client waits for what [`Request::is_long`]: a collection of a large store.
const LONG_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Requests that may wait at once.
const MAX_WAITING: usize = 16;

/// The longest path that fits the system's socket address, in bytes.
const MAX_PATH_BYTES: usize = 100;

/// What the server sends back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done.
    Answer(Answer),
    /// It was not done.
    Failure(Failure),
}

/// Why the socket gave no answer. The request may have been done all the same.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket failed.
    #[error("{doing} the running server through {}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("read the answer of the running server: {detail}; is it another version of firnd?")]
    Answer {
        /// What is wrong with it.
        detail: String,
    },
}

/// A path that is short enough for a socket's address, and what must stay open as long as it is used.
struct Address {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

fn address(data: &DataDir) -> io::Result<Address> {
    let path = data.socket();
    if path.as_os_str().len() <= MAX_PATH_BYTES {
        return Ok(Address { path, _folder: None });
    }
    let folder = rustix::fs::open(data.root(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = path.file_name().unwrap_or_default();
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok(Address { path, _folder: Some(folder) })
}

/// Asks a running server; `None` if none listens.
pub fn ask(data: &DataDir, request: &Request) -> Result<Option<Result<Answer, Failure>>, SocketError> {
    let io = |doing| move |source| SocketError::Io { doing, path: data.socket(), source };
    let stream = match address(data).and_then(|address| BlockingStream::connect(&address.path)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(io("reach")(error)),
    };
    let wait = if request.is_long() { LONG_WAIT } else { ANSWER_WAIT };
    stream.set_read_timeout(Some(wait)).map_err(io("reach"))?;
    stream.set_write_timeout(Some(LINE_WAIT)).map_err(io("reach"))?;
    (&stream).write_all(&line(request)).map_err(io("send a request to"))?;
    let mut text = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_until(b'\n', &mut text).map_err(io("wait for"))?;
    if text.is_empty() {
        // It was shutting down and took the connection without reading from it.
        return Ok(None);
    }
    let reply = serde_json::from_slice(&text).map_err(|error| SocketError::Answer { detail: error.to_string() })?;
    Ok(Some(match reply {
        Reply::Answer(answer) => Ok(answer),
        Reply::Failure(failure) => Err(failure),
    }))
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("these types have string keys only");
    line.push(b'\n');
    line
}

/// Opens the socket in a data directory whose lock this process holds.
pub fn listen(data: &DataDir) -> Result<UnixListener, DataError> {
    let io = |doing| move |source| DataError::Io { doing, path: data.socket(), source };
    match std::fs::remove_file(data.socket()) {
        // A killed server leaves its socket behind; the lock says that none runs.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("remove the old socket")(error)),
    }
    let address = address(data).map_err(io("open the socket"))?;
    // Between the two steps the data directory keeps others out: only its owner may enter it.
    let listener = UnixListener::bind(&address.path).map_err(io("open the socket"))?;
    DataDir::make_private(&data.socket())?;
    Ok(listener)
}

/// What the server's end needs.
pub struct Server {
    /// The state that changes are made known to.
    pub app: Arc<App>,
    /// Where the store is.
    pub data: DataDir,
    /// Its index, to be copied.
    pub index: IndexFiles,
    /// How clients reach the server, without a final slash.
    pub base_url: String,
    /// Held while a request is executed: changes read rows and write them back.
    pub gate: Mutex<Option<Begun>>,
}

/// The backup that was begun last.
pub struct Begun {
    id: String,
    /// Who makes it.
    process: Pid,
}

impl Begun {
    /// Returns whether whoever made it is gone; that he said so or not does not matter then.
    fn is_over(&self) -> bool {
        test_kill_process(self.process) == Err(Errno::SRCH)
    }
}

impl Server {
    fn execute(&self, request: Request, asker: Option<Pid>) -> Reply {
        let gate = || self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gate = (!request.is_long()).then(gate);
        let admin = Admin {
            meta: self.app.engine.meta(),
            index: Some(&self.index),
            app: Some(&self.app),
            engine: None,
            gc: &self.app.config.gc,
            data: &self.data,
            base_url: &self.base_url,
            entropy: &SystemEntropy,
            now: self.app.now(),
        };
        let begins = matches!(request, Request::BackupBegin);
        let last = gate.as_ref().and_then(|last| last.as_ref()).filter(|last| begins && last.is_over());
        if let Some(Begun { id, .. }) = last {
            // It was killed, it may be. What it held would be let go of after a while.
            if let Err(error) = execute(&admin, Request::BackupEnd { id: id.clone() }) {
                tracing::warn!(%error, "what an interrupted backup left could not be cleared away");
            }
        }
        let done = execute(&admin, request);
        if let (true, Some(last), Some(process), Ok(Answer::Backup(view))) = (begins, &mut gate, asker, &done) {
            **last = Some(Begun { id: view.id.clone(), process });
        }
        match done {
            Ok(answer) => Reply::Answer(answer),
            Err(failure) => Reply::Failure(failure),
        }
    }
}

/// Answers until `stop`; then finishes what it has begun.
pub async fn serve(listener: UnixListener, server: Arc<Server>, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the administration socket takes no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Whoever comes while many wait is hung up on, rather than kept in memory.
        let Ok(permit) = Arc::clone(&waiting).try_acquire_owned() else { continue };
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            if let Err(error) = answer(stream, server).await {
                tracing::debug!(%error, "an administrator's connection broke");
            }
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer(mut stream: UnixStream, server: Arc<Server>) -> io::Result<()> {
    let mut text = Vec::new();
    // Of a process in another namespace the system tells no number.
    let asker = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_LINE_BYTES));
    timeout(LINE_WAIT, reader.read_until(b'\n', &mut text)).await??;
    let reply = if text.last() != Some(&b'\n') {
        invalid(format!("the request is not one line of at most {MAX_LINE_BYTES} bytes"))
    } else {
        match serde_json::from_slice(&text) {
            // Without the error's own words: they may quote a secret.
            Err(error) => invalid(format!(
                "the running server doesn't know this request (column {}): is it another version of firnd?",
                error.column()
            )),
            Ok(request) => {
                let work = Arc::clone(&server);
                server
                    .app
                    .blocking(move || work.execute(request, asker))
                    .await
                    .unwrap_or_else(|error| Reply::Failure(Failure::Store { detail: error.to_string() }))
            }
        }
    };
    let mut text = line(&reply);
    if text.len() as u64 > MAX_ANSWER_BYTES {
        text = line(&invalid("the answer is too long; stop the server and ask again".to_owned()));
    }
    timeout(LINE_WAIT, writer.write_all(&text)).await??;
    Ok(())
}

fn invalid(detail: String) -> Reply {
    Reply::Failure(Failure::Invalid { detail })
}
