//! A TCP proxy that hurts connections: cuts an answer or a request after a number of bytes, or holds it there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::door::Door;
use crate::error::Result;

/// What the proxy does to the connections that it accepts from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Forward everything.
    None,
    /// Forward this many bytes from the server, then break the connection off. The next `times - 1` connections that
    /// get so far are cut in the same place, later ones are left alone.
    CutAnswers {
        /// Bytes of answers, headers included, that a connection may carry.
        after: u64,
        /// How many connections are to be cut.
        times: u64,
    },
    /// Forward this many bytes to the server, then break the connection off; `times` as above.
    CutRequests {
        /// Bytes of requests, headers included, that a connection may carry.
        after: u64,
        /// How many connections are to be cut.
        times: u64,
    },
    /// Forward this many bytes to the server, then nothing more until the next [`Proxy::set_fault`].
    HoldRequests {
        /// Bytes of requests, headers included, that a connection may carry.
        after: u64,
    },
}

/// What is done to one direction of a connection.
#[derive(Debug, Clone, Copy)]
enum Hurt {
    Nothing,
    Cut { after: u64, times: u64 },
    Hold { after: u64, fault: u64 },
}

/// A proxy between a client and one server address, on threads of its own.
///
/// It ends accepting when dropped; connections that are open then end with their peers.
#[derive(Debug)]
pub struct Proxy {
    door: Door,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    fault: Mutex<Fault>,
    cuts: Mutex<u64>,
    was_cut: Condvar,
    /// How many faults were set, and how many connections the last one holds.
    held: Mutex<(u64, u64)>,
    /// Up to which fault connections that it held end, instead of going on.
    ended: AtomicU64,
    held_changed: Condvar,
    connections: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of `target` on a free port of the loopback address.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            target,
            fault: Mutex::new(Fault::None),
            cuts: Mutex::new(0),
            was_cut: Condvar::new(),
            held: Mutex::new((0, 0)),
            ended: AtomicU64::new(0),
            held_changed: Condvar::new(),
            connections: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let door = Door::open("the proxy", move |client| {
            serving.connections.fetch_add(1, Ordering::SeqCst);
            // A broken connection is what this is for, so there is nobody to tell.
            let _ = serve(&client, &serving);
        })?;
        Ok(Self { door, shared })
    }

    /// Returns where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Sets what happens to connections accepted from now on; open ones go on as they began, held ones go on.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&self.shared.cuts) = 0;
        self.shared.release(Some(fault));
    }

    /// Ends the connections that are held: what they hold never arrives, whatever becomes of who sent it.
    pub fn end_held(&self) {
        self.shared.ended.store(lock(&self.shared.held).0, Ordering::SeqCst);
        self.shared.release(None);
    }

    /// Waits until a connection is held by the fault that was set last; returns whether one was within `patience`.
    pub fn wait_for_hold(&self, patience: Duration) -> bool {
        let held = lock(&self.shared.held);
        let waited = self.shared.held_changed.wait_timeout_while(held, patience, |(_, held)| *held == 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.1 > 0
    }

    /// Returns how many connections were cut since the last [`Proxy::set_fault`].
    pub fn cuts(&self) -> u64 {
        *lock(&self.shared.cuts)
    }

    /// Waits until a connection was cut since the last [`Proxy::set_fault`]; returns whether one was within `patience`.
    pub fn wait_for_cut(&self, patience: Duration) -> bool {
        let cuts = lock(&self.shared.cuts);
        let waited = self.shared.was_cut.wait_timeout_while(cuts, patience, |cuts| *cuts == 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 > 0
    }

    /// Returns how many connections were accepted in all.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.release(None);
    }
}

impl Shared {
    /// Lets go of what is held, and sets the next fault.
    fn release(&self, fault: Option<Fault>) {
        let mut held = lock(&self.held);
        if let Some(fault) = fault {
            *lock(&self.fault) = fault;
        }
        *held = (held.0 + 1, 0);
        self.held_changed.notify_all();
    }

    /// Returns the fault and its number.
    fn fault(&self) -> (Fault, u64) {
        let held = lock(&self.held);
        (*lock(&self.fault), held.0)
    }

    /// Waits as long as a fault is the one that was set last; returns whether the connection goes on then.
    fn hold(&self, fault: u64) -> bool {
        let mut held = lock(&self.held);
        if held.0 == fault {
            held.1 += 1;
            self.held_changed.notify_all();
        }
        let released = self.held_changed.wait_while(held, |(last, _)| *last == fault);
        drop(released.unwrap_or_else(PoisonError::into_inner));
        fault > self.ended.load(Ordering::SeqCst)
    }

    /// Takes one of the cuts that are left, if there is one.
    fn take_cut(&self, times: u64) -> bool {
        let mut cuts = lock(&self.cuts);
        let left = *cuts < times;
        if left {
            *cuts += 1;
            self.was_cut.notify_all();
        }
        left
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: &TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (fault, number) = shared.fault();
    let server = TcpStream::connect(shared.target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (requests, answers) = match fault {
        Fault::None => (Hurt::Nothing, Hurt::Nothing),
        Fault::CutAnswers { after, times } => (Hurt::Nothing, Hurt::Cut { after, times }),
        Fault::CutRequests { after, times } => (Hurt::Cut { after, times }, Hurt::Nothing),
        Fault::HoldRequests { after } => (Hurt::Hold { after, fault: number }, Hurt::Nothing),
    };
    thread::scope(|scope| {
        scope.spawn(|| forward(client, &server, requests, shared));
        forward(&server, client, answers, shared);
    });
    Ok(())
}

/// Copies one direction to its end; closes both directions, or waits, where the fault says so.
fn forward(mut from: &TcpStream, mut to: &TcpStream, hurt: Hurt, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    let mut carried = 0u64;
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..len).unwrap_or_default();
        let over = |after: u64| len as u64 > after.saturating_sub(carried);
        let up_to = |after: u64| usize::try_from(after.saturating_sub(carried)).unwrap_or(usize::MAX);
        let mut done = 0;
        match hurt {
            Hurt::Cut { after, times } if over(after) && shared.take_cut(times) => {
                let _ = to.write_all(bytes.get(..up_to(after)).unwrap_or_default());
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            Hurt::Hold { after, fault } if over(after) => {
                done = up_to(after);
                let _ = to.write_all(bytes.get(..done).unwrap_or_default());
                if !shared.hold(fault) {
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            Hurt::Nothing | Hurt::Cut { .. } | Hurt::Hold { .. } => {}
        }
        carried += len as u64;
        if to.write_all(bytes.get(done..).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A server that answers every connection with ten bytes once it has read one.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut byte = [0];
                if client.read_exact(&mut byte).is_ok() {
                    let _ = client.write_all(b"0123456789");
                }
            }
        });
        address
    }

    fn ask(address: SocketAddr) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).expect("the proxy listens");
        stream.write_all(b"?").expect("connected");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    #[test]
    fn answers_are_cut_as_often_as_asked() {
        let proxy = Proxy::start(server()).expect("a free port");
        assert_eq!(ask(proxy.address()), b"0123456789");
        proxy.set_fault(Fault::CutAnswers { after: 4, times: 2 });
        assert_eq!(ask(proxy.address()), b"0123");
        assert_eq!(ask(proxy.address()), b"0123");
        assert_eq!(ask(proxy.address()), b"0123456789");
        assert_eq!((proxy.cuts(), proxy.connections()), (2, 4));
    }

    #[test]
    fn an_answer_that_ends_at_the_border_is_whole() {
        let proxy = Proxy::start(server()).expect("a free port");
        proxy.set_fault(Fault::CutAnswers { after: 10, times: 1 });
        assert_eq!(ask(proxy.address()), b"0123456789");
        assert_eq!(proxy.cuts(), 0);
    }

    #[test]
    fn requests_are_cut() {
        let proxy = Proxy::start(server()).expect("a free port");
        proxy.set_fault(Fault::CutRequests { after: 0, times: 1 });
        assert_eq!(ask(proxy.address()), b"");
        assert_eq!(ask(proxy.address()), b"0123456789");
    }

    #[test]
    fn requests_are_held_until_the_fault_changes() {
        let proxy = Proxy::start(server()).expect("a free port");
        proxy.set_fault(Fault::HoldRequests { after: 0 });
        assert!(!proxy.wait_for_hold(Duration::ZERO));
        let address = proxy.address();
        let asking = thread::spawn(move || ask(address));
        assert!(proxy.wait_for_hold(Duration::from_secs(60)) && !asking.is_finished());
        proxy.set_fault(Fault::None);
        assert_eq!(asking.join().expect("answered"), b"0123456789");
    }
}
