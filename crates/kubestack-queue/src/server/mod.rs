//! The queue's HTTP API. Errors are problem details (RFC 9457); every input has a limit.

mod problem;
mod queue;
mod routes;

pub use problem::Problem;
pub use queue::{Queue, QueueOptions};

use std::future::Future;
use std::sync::Arc;

/// Serves the API on that listener until `stop` is ready.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    queue: Arc<Queue>,
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes::router(queue)).with_graceful_shutdown(stop).await
}
