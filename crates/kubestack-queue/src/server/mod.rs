//! The queue's HTTP API. Errors are problem details (RFC 9457); every input has a limit.

mod limits;
mod problem;
mod queue;
mod routes;

pub use limits::QueueOptions;
pub use problem::Problem;
pub use queue::Queue;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Whoever takes longer to send the head of a request, or to send the next one, is let go. Longer than what
/// our own client keeps an idle connection for, so that it never sends into one that is being closed.
const HEAD: Duration = Duration::from_secs(60);
/// What is read ahead of one connection, and the most that the head of a request may have.
const READ_AHEAD: usize = 64 * 1024;
/// Connections at once where the system sets no limit.
const CONNECTIONS: u64 = 10_000;

/// Serves the API on that listener until dropped; all its connections end with it.
pub async fn serve(queue: Arc<Queue>, listener: TcpListener) -> Infallible {
    let service = TowerToHyperService::new(routes::router(queue));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(READ_AHEAD);
    // Half of the files that may be open, so that the rest of the process can always open its own. Whoever
    // comes beyond that waits to be accepted.
    let open = getrlimit(Resource::Nofile).current.unwrap_or(CONNECTIONS * 2);
    let most = usize::try_from((open / 2).clamp(1, CONNECTIONS)).unwrap_or(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, _)) => {
                    let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                    connections.spawn(async {
                        // That somebody hung up or sent nonsense is their trouble.
                        let _ = connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the queue cannot accept a connection; it goes on");
                    // Most likely no file can be opened: to ask again at once would only burn time.
                    routes::at_most(1_000, pending()).await;
                }
            }
        }
    }
}
