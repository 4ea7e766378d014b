//! From the socket to an [`Ask`] and back, and the connections of agents.

use super::answer::{Answer, Ask};
use super::site::Site;
use super::state::{Channel, hex};
use super::trouble::{Trouble, Troubles};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kubestack_core::context::Clock;
use percent_encoding::percent_decode_str;
use sha1::{Digest, Sha1};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// No body may be larger.
const MAX_BODY: usize = 8 << 20;
/// As many requests are remembered.
const MAX_HEARD: usize = 10_000;
/// What both sides of a WebSocket handshake append to its key (RFC 6455, 1.3).
const WEB_SOCKET: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the handle, the connections and the agents share.
pub(super) struct Shared {
    pub inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    /// Sent to whenever something may have changed.
    changed: watch::Sender<()>,
    /// Sent to when all connections are to end.
    pub cut: watch::Sender<()>,
    /// As many held answers may go.
    pub released: Semaphore,
}

/// What one lock guards.
pub(super) struct Inner {
    pub site: Site,
    pub troubles: Troubles,
    /// Requests, as "METHOD /path?query".
    pub heard: VecDeque<String>,
    /// How far the clock was moved.
    pub ahead: Duration,
    /// `/jenkins`, or nothing.
    pub context: String,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Shared {
    pub fn new(site: Site, context: String, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            site,
            troubles: Troubles::default(),
            heard: VecDeque::new(),
            ahead: Duration::ZERO,
            context,
        };
        let (changed, cut) = (watch::Sender::new(()), watch::Sender::new(()));
        Self { inner: Mutex::new(inner), clock, changed, cut, released: Semaphore::new(0) }
    }

    /// Does something at this moment; what follows from it happens as well.
    pub fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        inner.site.controller.now = (self.clock.now() + inner.ahead).as_millis();
        inner.site.controller.settle();
        let outcome = act(&mut inner);
        inner.site.controller.settle();
        drop(inner);
        self.changed.send_replace(());
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent's hold on its node: dropped, it is offline.
pub(super) struct Connected {
    pub shared: Arc<Shared>,
    pub channel: Channel,
}

impl Connected {
    /// Whether Jenkins takes it for connected still.
    pub fn is_alive(&self) -> bool {
        self.shared.lock().site.controller.is_connected(self.channel)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let channel = self.channel;
        self.shared.with(|inner| inner.site.controller.detach(channel));
    }
}

/// Serves until dropped; all connections end with it.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut cut = shared.cut.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = cut.changed() => connections.shutdown().await,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(shared.clone(), stream));
            }
        }
    }
}

/// An agent that was let in, and what is left of its connection once the answer is out.
type Upgrade = Arc<Mutex<Option<(OnUpgrade, Connected)>>>;

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let upgrade = Upgrade::default();
    let service = service_fn(|request| respond(shared.clone(), upgrade.clone(), request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    let agent = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    // That somebody hung up is their trouble.
    if let (Ok(()), Some((upgrade, connected))) = (served, agent)
        && let Ok(socket) = upgrade.await
    {
        hold(TokioIo::new(socket), connected).await;
    }
}

/// Holds an agent's socket until either side ends it.
async fn hold(mut socket: TokioIo<hyper::upgrade::Upgraded>, connected: Connected) {
    let mut changed = connected.shared.changed.subscribe();
    let mut bytes = [0; 1024];
    while connected.is_alive() {
        tokio::select! {
            read = socket.read(&mut bytes) => match read {
                // A close frame, or the end.
                Ok(0) | Err(_) => return,
                Ok(_) if bytes.first() == Some(&0x88) => return,
                Ok(_) => {}
            },
            _ = changed.changed() => {}
        }
    }
    // Normal closure.
    let _ = socket.write_all(&[0x88, 0x02, 0x03, 0xE8]).await;
    let _ = socket.shutdown().await;
}

async fn respond(
    shared: Arc<Shared>,
    upgrade: Upgrade,
    mut request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    let line = format!("{} {}", parts.method, parts.uri);
    let (trouble, answer, channel) = shared.with(|inner| {
        if inner.heard.len() >= MAX_HEARD {
            inner.heard.pop_front();
        }
        inner.heard.push_back(line);
        let Some(ask) = ask(&inner.context, &parts, &body) else { return (None, Answer::not_found(), None) };
        let trouble = inner.troubles.take(&ask);
        if trouble == Some(Trouble::CutBefore) {
            return (trouble, Answer::empty(500), None);
        }
        let (answer, channel) = match (trouble.and_then(Trouble::instead), ask.path.as_slice()) {
            (Some(answer), _) => (answer, None),
            (None, [one]) if one == "wsagents" => match attach(&mut inner.site, &ask) {
                Ok((answer, channel)) => (answer, Some(channel)),
                Err(answer) => (answer, None),
            },
            (None, _) => (inner.site.answer(&ask), None),
        };
        (trouble, trouble.map_or(answer.clone(), |trouble| trouble.spoil(answer)), channel)
    });
    if let Some(channel) = channel {
        // Outside of the lock: what is dropped takes it.
        let connected = Connected { shared: shared.clone(), channel };
        let before = upgrade.lock().unwrap_or_else(PoisonError::into_inner).replace((on_upgrade, connected));
        drop(before);
    }
    match trouble {
        Some(Trouble::CutBefore) => return Err(io::Error::other("cut")),
        Some(Trouble::Held) => {
            if let Ok(permit) = shared.released.acquire().await {
                permit.forget();
            }
        }
        _ => {}
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = Bytes::from(answer.body);
    let body = if trouble == Some(Trouble::CutAfter) {
        response = response.header("Content-Length", body.len() + 1);
        let half = body.slice(..body.len() / 2);
        let parts = [Ok(Frame::data(half)), Err(io::Error::other("cut"))];
        StreamBody::new(stream::iter(parts)).boxed_unsync()
    } else {
        Full::new(body).map_err(|never| match never {}).boxed_unsync()
    };
    response.body(body).map_err(io::Error::other)
}

/// A request in plain words; `None` where it is not below the context path.
fn ask(context: &str, parts: &http::request::Parts, body: &Bytes) -> Option<Ask> {
    let path = parts.uri.path().strip_prefix(context)?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let headers = texts(&parts.headers);
    let body = String::from_utf8_lossy(body).into_owned();
    let form = headers.get("content-type").is_some_and(|kind| kind.contains("x-www-form-urlencoded"));
    let query = parts.uri.query().unwrap_or_default();
    let pairs = [query, if form { body.as_str() } else { "" }];
    let pairs = pairs.iter().flat_map(|text| text.split('&')).filter(|pair| !pair.is_empty());
    let fields = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    });
    let fields = fields.collect();
    let path = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    Some(Ask { method: parts.method.to_string(), path, fields, headers, body })
}

fn texts(headers: &HeaderMap) -> std::collections::BTreeMap<String, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// An agent asks to be let in by WebSocket (`jenkins/agents/WebSocketAgents.java`).
fn attach(site: &mut Site, ask: &Ask) -> Result<(Answer, Channel), Answer> {
    if site.starting {
        return Err(Answer::error(503, "Service Unavailable"));
    }
    if !site.controller.version.web_socket() {
        return Err(Answer::not_found());
    }
    let heads = ["node-name", "secret-key", "x-remoting-capability", "sec-websocket-key"];
    let upgrades = ask.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    let [Some(name), Some(secret), Some(_), Some(key)] = heads.map(|it| ask.header(it).filter(|_| upgrades))
    else {
        return Err(Answer::error(400, "This endpoint is only for use from agent.jar in WebSocket mode"));
    };
    let cookie = match ask.header("connection-cookie") {
        Some(cookie) => cookie.to_owned(),
        None => hex(&format!("{} cookie of {name}", site.controller.session)),
    };
    let attached = site.controller.attach(name, secret, &cookie);
    let channel = attached.map_err(|(status, text)| Answer::error(status, &text))?;
    let answer = Answer::empty(101)
        .with("Connection", "Upgrade")
        .with("Upgrade", "websocket")
        .with("Sec-WebSocket-Accept", accept(key))
        .with("X-Remoting-Capability", "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQ==")
        .with("X-Remoting-Minimum-Version", "3107.v665000b_51092")
        .with("Connection-Cookie", cookie);
    Ok((answer, channel))
}

fn accept(key: &str) -> String {
    base64::prelude::BASE64_STANDARD.encode(Sha1::digest(format!("{key}{WEB_SOCKET}").as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
