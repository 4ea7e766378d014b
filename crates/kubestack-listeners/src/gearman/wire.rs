//! The admin protocol of Gearman, as far as it is needed: text, one line a row, a line of one dot ends an answer
//! (gearmand's `PROTOCOL`, "Administrative Protocol").

use super::status::{Queued, parse};
use kubestack_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer is read beyond this; a row has at most some hundred bytes.
const MAX_ANSWER: usize = 8 << 20;

/// Asks one server what is queued. Bounded in size; the caller bounds the time.
pub(super) async fn status(host: &str, port: u16) -> Result<Queued> {
    let place = format!("gearman at {host}:{port}");
    let failed =
        |what: &str, error: std::io::Error| Error::transient(format!("cannot {what} {place}: {error}"));
    let mut stream = TcpStream::connect((host, port)).await.map_err(|error| failed("connect to", error))?;
    stream.write_all(b"status\n").await.map_err(|error| failed("ask", error))?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await.map_err(|error| failed("read the answer of", error))?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            return Err(Error::transient(format!("{place} hung up in the middle of its answer to `status`")));
        };
        answer.extend_from_slice(part);
        if answer.len() > MAX_ANSWER {
            return Err(Error::bug(format!(
                "{place} answers `status` with more than {} MiB",
                MAX_ANSWER >> 20
            )));
        }
        if is_whole(&answer) {
            return parse(&answer)
                .map_err(|text| Error::bug(format!("{place} answers `status` with {text}")));
        }
    }
}

/// Whether the line that ends it is there; or an error, which is one line.
fn is_whole(answer: &[u8]) -> bool {
    let end = |mark: &[u8]| {
        answer.strip_suffix(mark).is_some_and(|before| before.is_empty() || before.ends_with(b"\n"))
    };
    end(b".\n") || end(b".\r\n") || (answer.starts_with(b"ERR ") && answer.ends_with(b"\n"))
}
