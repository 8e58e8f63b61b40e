//! Running other programs for what they print: with a deadline and bounded output, so that nothing hangs on a daemon that does.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How much of each stream is kept, in bytes.
const MAX_OUTPUT_BYTES: u64 = 4 << 20;

/// What a program said.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error as text.
    pub(crate) stderr: String,
}

/// Runs a program to its end without standard input. One that takes longer than 20 s is killed, which is an error.
pub(crate) fn run(command: &mut Command) -> io::Result<Ran> {
    run_within(command, TIMEOUT)
}

fn run_within(command: &mut Command, timeout: Duration) -> io::Result<Ran> {
    let deadline = Instant::now() + timeout;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (sender, receiver) = mpsc::channel();
    for (index, stream) in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            // The other side is gone only when nobody wants the answer any more.
            let _ = sender.send((index, stream.map(read).unwrap_or_default()));
        });
    }
    let mut streams = [Vec::new(), Vec::new()];
    for _ in 0..streams.len() {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, bytes)) => streams[index] = bytes,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {} s", timeout.as_secs())));
            }
        }
    }
    let [stdout, stderr] = streams;
    Ok(Ran { status: child.wait()?, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

fn boxed<R: Read + Send + 'static>(stream: R) -> Box<dyn Read + Send> {
    Box::new(stream)
}

/// Reads to the end and keeps the start, so that the program never blocks.
fn read(mut stream: Box<dyn Read + Send>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is what there is to say.
    let _ = stream.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    let _ = io::copy(&mut stream, &mut io::sink());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_is_killed() {
        let error = run_within(Command::new("sleep").arg("1000"), Duration::from_millis(10)).expect_err("killed");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_that_is_not_there_is_told() {
        let error = run(&mut Command::new("/nonexistent/program")).expect_err("absent");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let ran = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).expect("runs");
        assert_eq!((ran.status.code(), ran.stdout.as_slice(), ran.stderr.as_str()), (Some(3), &b"out\n"[..], "err\n"));
    }

    #[test]
    fn much_output_does_not_block_it() {
        let ran = run(Command::new("head").args(["-c", "9000000", "/dev/zero"])).expect("runs");
        assert!(ran.status.success());
        assert_eq!(ran.stdout.len() as u64, MAX_OUTPUT_BYTES);
    }
}
