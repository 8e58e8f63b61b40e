//! Sockets: bound before anything is announced, accepted from within the limit of connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::ServeError;
use super::connection::Server;

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
pub(super) struct Listener {
    socket: TcpListener,
    /// Where it is, with the port that the system chose if none was asked for.
    pub(super) address: SocketAddr,
}

/// Binds all addresses, or none.
pub(super) async fn bind(addresses: &[SocketAddr]) -> Result<Vec<Listener>, ServeError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let fail = |source| ServeError::Listen { address, source };
        let socket = TcpListener::bind(address).await.map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        listeners.push(Listener { socket, address });
    }
    Ok(listeners)
}

/// Accepts until the server stops.
pub(super) async fn accept(listener: Listener, server: Arc<Server>) {
    loop {
        // First the permit: a connection that is not accepted waits in the system's queue.
        let permit = tokio::select! {
            () = server.stop.cancelled() => return,
            permit = Arc::clone(&server.connections).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => server.spawn(stream, peer, permit),
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(address = %listener.address, %error, "the system gives no further connection: waiting");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says whether an error is about the connection that was to be accepted, and not about the socket or the process.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
