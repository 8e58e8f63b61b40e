//! A program that is talked to through its standard input and output, such as `ssh`.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How much is kept of what it says on standard error, from its end.
const MAX_SAID_BYTES: usize = 4096;

/// How long a program is waited for, in steps: there is no waiting with a time limit.
const PATIENCE_STEP: Duration = Duration::from_millis(10);
const PATIENCE_STEPS: u32 = 100;

/// A running program; killed and waited for on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a program and returns the stream to its standard input and from its standard output: a socket, so that it can have time limits.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(command: &mut Command) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let input: OwnedFd = theirs.try_clone()?.into();
        let output: OwnedFd = theirs.into();
        let spawned = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn();
        // The command keeps its copies of the other end open: without this we would never see the end of what it says.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = spawned?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = child.stderr.take().map(|mut from| {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(len @ 1..) = from.read(&mut buffer) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.extend_from_slice(buffer.get(..len).unwrap_or_default());
                    let surplus = said.len().saturating_sub(MAX_SAID_BYTES);
                    said.drain(..surplus);
                }
            })
        });
        Ok((Self { child, said, listener }, ours))
    }

    /// Ends the program and returns the end of what it said on standard error, at most 4 KiB, without control characters but line ends.
    pub fn end(&mut self) -> (Option<ExitStatus>, String) {
        let _ = self.child.kill();
        (self.child.wait().ok(), self.finish_listening())
    }

    /// Does the same as [`Self::end`], but lets the program end by itself if it does within a second: it does so soon after its standard
    /// input was closed, or when it has nothing more to say.
    pub fn wait_briefly(&mut self) -> (Option<ExitStatus>, String) {
        for _ in 0..PATIENCE_STEPS {
            if let Ok(Some(status)) = self.child.try_wait() {
                return (Some(status), self.finish_listening());
            }
            thread::sleep(PATIENCE_STEP);
        }
        self.end()
    }

    fn finish_listening(&mut self) -> String {
        if let Some(listener) = self.listener.take() {
            // What the program left behind may keep its standard error open: what was heard by then is enough.
            for _ in (0..PATIENCE_STEPS).take_while(|_| !listener.is_finished()) {
                thread::sleep(PATIENCE_STEP);
            }
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said).into_owned();
        text.chars().filter(|&c| c == '\n' || !c.is_control()).collect::<String>().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_program_is_talked_to_and_heard() {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line; echo \"got $line\"; echo 'no good' >&2; exit 3"]);
        let (mut process, mut stream) = Process::start(&mut command).unwrap();
        stream.write_all(b"this\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "got this\n");
        let (status, said) = process.wait_briefly();
        assert_eq!((status.and_then(|status| status.code()), said.as_str()), (Some(3), "no good"));
    }

    #[test]
    fn one_that_does_not_end_is_ended() {
        let (mut process, _stream) = Process::start(Command::new("sleep").arg("1000")).unwrap();
        let (status, _) = process.end();
        assert!(!status.unwrap().success());
    }
}
