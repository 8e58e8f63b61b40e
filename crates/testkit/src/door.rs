//! A listener on the loopback address whose connections are served by threads of their own, as all servers of the tests are.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::{Doing, Result};

/// A listener on a free port. It ends accepting when dropped; connections that are open then end with their peers.
#[derive(Debug)]
pub(crate) struct Door {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Door {
    /// Opens it; `what` is who listens, as errors say it. Each connection is served once, by a thread of its own.
    pub(crate) fn open(what: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| format!("listen for {what}"))?;
        let address = listener.local_addr().doing(|| format!("ask for the address of {what}"))?;
        let closed = Arc::new(AtomicBool::new(false));
        let (is_closed, serve) = (Arc::clone(&closed), Arc::new(serve));
        thread::spawn(move || {
            for client in listener.incoming() {
                if is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(client));
            }
        });
        Ok(Self { address, closed })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}
