use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::{Answer, MAX_LINE_BYTES, Request};
use super::error::{Error, Result};
use super::handle::Handle;
use super::store::Store;

/// How many connections are served at once; the next ones wait.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may be silent, in either direction.
const PATIENCE: Duration = Duration::from_secs(30);

/// The control socket of an agent.
///
/// Whoever may write to the socket may have any valid path of the store pushed, and read the names of paths; nobody gets
/// contents or the token. The mode decides who: 0600 by default.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens on a socket; one that nobody answers on is replaced, and nothing else: [`Error::NoSocket`].
    /// [`Error::Occupied`] if an agent answers.
    pub fn bind(path: &Path, mode: u32) -> Result<Self> {
        let fail = |doing| move |source| Error::Socket { doing, path: path.to_owned(), source };
        // Connecting to a file is refused just as to a socket that nobody listens on.
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(Error::NoSocket { path: path.to_owned() }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("look at")(error)),
            Ok(_) | Err(_) => {}
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(Error::Occupied { path: path.to_owned() }),
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {}
            Err(error) => return Err(fail("look for an agent on")(error)),
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(fail("create the folder of"))?;
        }
        // Under another name first: nobody connects before the mode is what it should be.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside).map_err(fail("listen on"))?;
        let place = || {
            fs::set_permissions(&aside, Permissions::from_mode(mode))?;
            fs::rename(&aside, path)
        };
        place().map_err(|error| {
            let _ = fs::remove_file(&aside);
            fail("place")(error)
        })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers requests until it is told to stop; then the socket is removed, and nobody is waited for.
    pub async fn serve<S: Store>(self, handle: Handle<S>, stop: CancellationToken) {
        let (turns, tasks) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
        loop {
            let next = async {
                let turn = turns.clone().acquire_owned().await;
                (turn, self.listener.accept().await)
            };
            let (turn, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (handle, stop) = (handle.clone(), stop.clone());
                    tasks.spawn(async move {
                        let _turn = turn;
                        tokio::select! {
                            () = stop.cancelled() => {}
                            // Who went away needs no answer.
                            _ = speak(stream, &handle) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let _ = fs::remove_file(&self.path);
        tasks.close();
        tasks.wait().await;
    }
}

async fn speak<S: Store>(stream: UnixStream, handle: &Handle<S>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_LINE_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.get_mut().set_limit(MAX_LINE_BYTES);
        timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => handle.answer(request).await,
            Err(error) => Answer::Failed { message: format!("understand the request: {error}") },
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        timeout(PATIENCE, writer.write_all(&text)).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn takes_the_place_of_a_dead_socket_and_of_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        drop(ControlSocket::bind(&at("socket"), 0o600).unwrap());
        let socket = ControlSocket::bind(&at("socket"), 0o600).unwrap();
        assert!(matches!(ControlSocket::bind(&at("socket"), 0o600), Err(Error::Occupied { .. })));
        fs::write(at("token"), "secret").unwrap();
        symlink(at("token"), at("link")).unwrap();
        symlink(at("none"), at("dangling")).unwrap();
        symlink(at("socket"), at("elsewhere")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for name in ["token", "link", "dangling", "elsewhere", "folder"] {
            let error = ControlSocket::bind(&at(name), 0o600).unwrap_err();
            assert!(matches!(&error, Error::NoSocket { path } if *path == at(name)), "{name}: {error}");
        }
        assert_eq!(fs::read(at("token")).unwrap(), b"secret");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        drop(socket);
    }
}
