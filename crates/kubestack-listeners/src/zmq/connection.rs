//! One connection to a publisher, from its name to its end. Every call may be cancelled and made again.

use super::codec::{Codec, SIGNATURE, Said};
use kubestack_core::error::{Error, Result};
use socket2::{SockRef, TcpKeepalive};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A publisher may be silent for days, and its old versions know no heartbeat: so the kernel asks whether the other
/// end is still there. One that is gone without a word is noticed within a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// A subscription to all that a publisher says.
pub(super) struct Connection {
    stream: TcpStream,
    codec: Codec,
    /// What is still to be sent.
    outbox: Vec<u8>,
    chunk: Box<[u8]>,
}

impl Connection {
    /// Connects; nothing is said yet.
    pub async fn open(host: &str, port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_TRIES))?;
        Ok(Self {
            stream,
            codec: Codec::new(),
            outbox: SIGNATURE.to_vec(),
            chunk: vec![0; 16 * 1024].into_boxed_slice(),
        })
    }

    /// The next message; `None` once, when the subscription is on its way.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            while !self.outbox.is_empty() {
                let sent = self.stream.write(&self.outbox).await.map_err(lost)?;
                self.outbox.drain(..sent);
            }
            match self.codec.next().map_err(Error::bug)? {
                Some(Said::Send(bytes)) => self.outbox.extend_from_slice(&bytes),
                Some(Said::Ready) => return Ok(None),
                Some(Said::Message(message)) => return Ok(Some(message)),
                None => {
                    let read = self.stream.read(&mut self.chunk).await.map_err(lost)?;
                    match self.chunk.get(..read) {
                        Some(bytes) if !bytes.is_empty() => self.codec.push(bytes),
                        _ => return Err(hung_up()),
                    }
                }
            }
        }
    }
}

fn lost(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => hung_up(),
        _ => Error::transient(error.to_string()),
    }
}

fn hung_up() -> Error {
    Error::transient("it hung up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_asks_whether_the_other_end_is_still_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = Connection::open("127.0.0.1", port).await.unwrap();
        let socket = SockRef::from(&connection.stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_TRIES);
    }
}
