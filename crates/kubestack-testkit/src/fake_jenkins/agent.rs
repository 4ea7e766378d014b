//! Fake agents: whatever an agent shows before it is let in is in HTTP headers, so one that holds its connection and
//! runs nothing is enough.

use super::server::Connected;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An agent that did not come over a socket; dropped, its node is offline.
pub struct FakeAgent(pub(super) Connected);

impl FakeAgent {
    /// Whether Jenkins takes it for connected still.
    pub fn is_connected(&self) -> bool {
        self.0.is_alive()
    }
}

/// An agent by WebSocket, as `agent.jar -webSocket` begins: it looks whether Jenkins is up, then shows name and secret.
/// Dropped, it has hung up.
pub struct WebSocketAgent {
    stream: TcpStream,
    /// What Jenkins gave it, so that it may come back.
    pub cookie: String,
}

impl WebSocketAgent {
    /// Connects to a Jenkins at `url`, such as `http://127.0.0.1:8080/jenkins`.
    ///
    /// # Errors
    /// With the status line that Jenkins answers, if that is not 101.
    pub async fn connect(url: &str, name: &str, secret: &str, cookie: Option<&str>) -> io::Result<Self> {
        let wrong = || io::Error::other(format!("{url} is no address of this form: http://HOST:PORT/PATH"));
        let rest = url.trim_end_matches('/').strip_prefix("http://").ok_or_else(wrong)?;
        let (host, path) =
            rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
        let mut stream = TcpStream::connect(host).await?;
        let head = ask(
            &mut stream,
            &format!("GET {path}/login HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
        .await?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(first_line(&head)));
        }
        let mut stream = TcpStream::connect(host).await?;
        let cookie = cookie.map_or_else(String::new, |cookie| format!("Connection-Cookie: {cookie}\r\n"));
        let request = format!(
            "GET {path}/wsagents/ HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nNode-Name: {name}\r\nSecret-Key: {secret}\r\nX-Remoting-Capability: rO0ABQ==\r\n{cookie}\r\n"
        );
        let head = ask(&mut stream, &request).await?;
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(io::Error::other(first_line(&head)));
        }
        let cookie = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("connection-cookie"));
        let cookie = cookie.map(|(_, value)| value.trim().to_owned()).unwrap_or_default();
        Ok(Self { stream, cookie })
    }

    /// Waits until Jenkins ends the connection.
    pub async fn ended(mut self) {
        let mut bytes = [0; 256];
        while matches!(self.stream.read(&mut bytes).await, Ok(count) if count > 0) {}
    }
}

/// Sends a request and reads the head of the answer.
async fn ask(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn first_line(head: &str) -> String {
    head.lines().next().unwrap_or_default().to_owned()
}
