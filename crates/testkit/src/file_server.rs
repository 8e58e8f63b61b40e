//! A small HTTP server of a folder's files, as a plain binary cache is served, that counts requests and gets into trouble on command.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::door::Door;
use crate::error::Result;

/// How long a client that gets nothing is kept at most: far above any limit that a test sets.
const SILENCE: Duration = Duration::from_secs(120);

/// What happens to requests for paths that contain a word; all others are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// They are answered with this status and no file.
    Status(u16),
    /// They are never answered, until the trouble changes.
    Silent,
    /// The connection is cut after so many bytes of the file.
    Cut(usize),
    /// The rest of the file is held back after so many bytes, until the trouble changes.
    Hold(usize),
}

/// The server, on a free port of the loopback address and threads of its own. It ends accepting when dropped.
#[derive(Debug)]
pub struct FileServer {
    door: Door,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    word: String,
    trouble: Trouble,
    changes: u64,
    requests: Vec<String>,
}

impl FileServer {
    /// Starts a server of a folder.
    pub fn start(folder: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let door = Door::open("files", move |client| {
            let _ = client.set_nodelay(true);
            // Whoever is cut off sees that; there is nobody else to tell.
            while matches!(answer(&client, &serving), Ok(true)) {}
        })?;
        Ok(Self { door, shared })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Returns its URL, without a final slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Sets what happens from now on to requests for paths that contain `word`; those that are held go on.
    pub fn set_trouble(&self, word: &str, trouble: Trouble) {
        let mut state = self.shared.lock();
        (state.word, state.trouble) = (word.to_owned(), trouble);
        state.changes += 1;
        self.shared.changed.notify_all();
    }

    /// Returns how many requests came for paths that contain `word`.
    pub fn requests(&self, word: &str) -> usize {
        self.shared.lock().requests.iter().filter(|path| path.contains(word)).count()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.set_trouble("", Trouble::None);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the trouble to change.
    fn wait(&self, changes: u64) {
        let waiting = self.changed.wait_timeout_while(self.lock(), SILENCE, |state| state.changes == changes);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Answers one request; returns whether another may follow.
fn answer(client: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(false);
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/').to_owned();
    let (trouble, changes) = {
        let mut state = shared.lock();
        state.requests.push(path.clone());
        let is_hurt = path.contains(&state.word);
        (if is_hurt { state.trouble.clone() } else { Trouble::None }, state.changes)
    };
    // A server that is gone answers nobody, on connections that are open either.
    if shared.stopped.load(Ordering::SeqCst) {
        return Ok(false);
    }
    if trouble == Trouble::Silent {
        shared.wait(changes);
        return Ok(false);
    }
    let escapes = path.split('/').any(|part| part == "..");
    let file = if escapes { None } else { fs::read(shared.folder.join(&path)).ok() };
    let (status, body) = match (&trouble, file) {
        (Trouble::Status(status), _) => (*status, Vec::new()),
        (_, Some(file)) => (200, file),
        (_, None) => (404, Vec::new()),
    };
    let mut out = client;
    write!(out, "HTTP/1.1 {status} -\r\nContent-Length: {}\r\n\r\n", body.len())?;
    if method == "HEAD" {
        return Ok(true);
    }
    match trouble {
        Trouble::Cut(after) => {
            out.write_all(&body[..after.min(body.len())])?;
            out.shutdown(std::net::Shutdown::Both)?;
            return Ok(false);
        }
        Trouble::Hold(after) => {
            let (before, rest) = body.split_at(after.min(body.len()));
            out.write_all(before)?;
            shared.wait(changes);
            out.write_all(rest)?;
        }
        Trouble::None | Trouble::Status(_) | Trouble::Silent => out.write_all(&body)?,
    }
    Ok(true)
}
