//! Counts what goes over a connection, whatever it means.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Context;

/// How much is forwarded at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Forwards connections to a server and counts their bytes in both directions. Ends accepting when dropped.
pub(super) struct Counting {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Counting {
    /// Starts in front of a server on a free port of the loopback address.
    pub(super) fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { server, bytes: AtomicU64::new(0), stopped: AtomicBool::new(false) });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                // Who is cut off sees that for itself.
                thread::spawn(move || drop(shared.serve(&client)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Returns where clients connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many bytes went in both directions so far.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        thread::scope(|scope| {
            scope.spawn(|| self.forward(client, &server));
            self.forward(&server, client);
        });
        Ok(())
    }

    fn forward(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            self.bytes.fetch_add(len as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}
