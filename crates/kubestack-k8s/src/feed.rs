//! One kind of object, listed and then watched, with a proof of how current that is.
//!
//! Sources: Kubernetes API concepts, "Efficient detection of changes", "Watch bookmarks", "Resource versions".

use crate::api::{Api, query};
use crate::fault::{Answer, Fault};
use crate::object::{Line, List, Meta, Partial, Pod};
use http::StatusCode;
use http_body_util::BodyExt;
use kube::client::Body;
use kubestack_core::prelude::*;
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// The server ends a watch after so many seconds, and sends a bookmark two seconds before. Short, because the
/// bookmark is what proves a quiet view.
const WATCH_SECONDS: u64 = 30;
/// A look at where the server is begins so long after the last one that was confirmed.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// If nothing proved the view for so long, all is listed again.
const PROOF_LIMIT: Duration = Duration::from_secs(60);
/// A watch that ends that soon and told nothing is no watch: the engine is told, and paces what follows.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// No line may be larger: an object has at most 1.5 MiB in etcd.
const MAX_LINE: usize = 8 << 20;

/// What a feed is of.
pub trait Object: DeserializeOwned + Send + 'static {
    /// Its metadata.
    fn meta(&self) -> &Meta;
}

impl Object for Pod {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for Partial {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What a feed tells.
pub enum Change<T> {
    /// It is new or changed.
    Applied(T),
    /// It is gone.
    Gone(T),
    /// [`Feed::proven`] grew.
    Proven,
    /// What was told may not be all: everything must be listed again.
    Lost,
}

type Later<T> = Pin<Box<dyn Future<Output = Answer<T>> + Send>>;

enum Stream {
    Closed,
    Opening(Later<Body>),
    Open(Body),
}

/// One kind of object.
pub struct Feed<T> {
    api: Arc<Api>,
    /// `pods` or `secrets`.
    kind: &'static str,
    selector: String,
    /// How objects and lists of them are asked for.
    accept: (&'static str, &'static str),
    /// How far it has come; the server's own word, and as a number (0: not a number).
    version: (String, u64),
    /// Everything that happened before has been told.
    pub proven: Moment,
    look: Option<Later<(Moment, u64)>>,
    last_look: Moment,
    /// Once the watch has come to that version, everything before that moment has been told.
    pending: Option<(Moment, u64)>,
    stream: Stream,
    opened: Moment,
    told: bool,
    buffer: Vec<u8>,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T: Object> Feed<T> {
    /// All objects of that kind that the selector selects.
    pub fn new(
        api: Arc<Api>,
        kind: &'static str,
        selector: &str,
        accept: (&'static str, &'static str),
    ) -> Self {
        Self {
            api,
            kind,
            selector: query(selector),
            accept,
            version: Default::default(),
            proven: Moment::default(),
            look: None,
            last_look: Moment::default(),
            pending: None,
            stream: Stream::Closed,
            opened: Moment::default(),
            told: false,
            buffer: Vec::new(),
            item: std::marker::PhantomData,
        }
    }

    /// Lists all of them, page by page, as they were at one moment not before this call. Each becomes what is kept of it
    /// before the next page is read, so that a list anew under thousands of agents holds no more than a page besides.
    pub async fn list<R>(&mut self, keep: impl Fn(&T) -> Option<R>) -> Answer<Vec<R>> {
        let began = self.api.now();
        let (mut items, mut token) = (Vec::new(), String::new());
        loop {
            // Without a resource version this is the most recent state there is, not a cache's.
            let path = format!(
                "{}?labelSelector={}&limit={PAGE}&continue={}",
                self.kind,
                self.selector,
                query(&token)
            );
            let page: List<T> = self.api.get(&path, self.accept.1).await?;
            items.extend(page.items.into_iter().flatten().filter_map(|item| keep(&item)));
            token = page.metadata.token;
            if token.is_empty() {
                self.reached(page.metadata.resource_version);
                break;
            }
        }
        (self.stream, self.look, self.pending) = (Stream::Closed, None, None);
        (self.proven, self.last_look) = (began, began);
        self.buffer.clear();
        Ok(items)
    }

    /// What happens next. Cancel-safe.
    pub async fn next(&mut self) -> Answer<Change<T>> {
        loop {
            if self.api.now().since(self.proven) > PROOF_LIMIT {
                return Ok(Change::Lost);
            }
            let due = self.last_look + LOOK_EVERY;
            if self.look.is_none() && self.pending.is_none() && self.api.now() >= due {
                self.last_look = self.api.now();
                self.look = Some(Box::pin(look(self.api.clone(), self.kind)));
            }
            let wake =
                if self.look.is_none() && self.pending.is_none() { due } else { self.proven + PROOF_LIMIT };
            let rest = wake.since(self.api.now()) + Duration::from_millis(1);
            let api = self.api.clone();
            tokio::select! {
                biased;
                line = line(&mut self.stream, &mut self.buffer) => match line? {
                    Some(line) => {
                        self.told = true;
                        if let Some(change) = self.read(&line)? {
                            return Ok(change);
                        }
                    }
                    None => self.open()?,
                },
                looked = async { match &mut self.look { Some(look) => look.as_mut().await, None => std::future::pending().await } } => {
                    self.look = None;
                    // One that failed proves nothing; if that goes on, all is listed again, and says why not.
                    self.pending = looked.ok().filter(|(_, version)| *version > 0);
                    if self.confirm() {
                        return Ok(Change::Proven);
                    }
                }
                () = api.sleep(rest) => {}
            }
        }
    }

    /// Opens the watch from where it has come to.
    fn open(&mut self) -> Answer<()> {
        let now = self.api.now();
        let short = matches!(self.stream, Stream::Open(_)) && now.since(self.opened) < TOO_SHORT;
        self.stream = Stream::Closed;
        self.buffer.clear();
        if short && !self.told {
            return Err(Fault::NoAnswer("the watch was cut as soon as it was opened".to_owned()));
        }
        (self.opened, self.told) = (now, false);
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&labelSelector={}&resourceVersion={}",
            self.kind,
            self.selector,
            query(&self.version.0)
        );
        let (api, accept) = (self.api.clone(), self.accept.0);
        self.stream = Stream::Opening(Box::pin(async move { api.stream(&path, accept).await }));
        Ok(())
    }

    fn read(&mut self, line: &[u8]) -> Answer<Option<Change<T>>> {
        let line: Line<T> = serde_json::from_slice(line)
            .map_err(|error| Fault::Nonsense(format!("a line of the watch makes no sense: {error}")))?;
        let change = match line {
            Line::Added(object) | Line::Modified(object) => Change::Applied(object),
            Line::Deleted(object) => Change::Gone(object),
            Line::Bookmark(bookmark) => {
                self.reached(bookmark.metadata.resource_version);
                return Ok(self.confirm().then_some(Change::Proven));
            }
            Line::Error(status) if StatusCode::GONE == status.code => return Ok(Some(Change::Lost)),
            Line::Error(status) => return Err(Fault::Refused(status)),
        };
        if let Change::Applied(object) | Change::Gone(object) = &change {
            self.reached(object.meta().resource_version.clone());
        }
        Ok(Some(change))
    }

    fn reached(&mut self, version: String) {
        let number = version.parse().unwrap_or(0);
        self.version = (version, number);
    }

    /// Whether the watch has come to where the last look found the server. To be asked after each change too.
    pub fn confirm(&mut self) -> bool {
        match self.pending {
            Some((began, version)) if self.version.1 >= version => {
                self.proven = self.proven.max(began);
                self.pending = None;
                true
            }
            _ => false,
        }
    }
}

/// Where the server is: the version of a consistent read of something small, and when that read began. It names an object
/// that cannot exist (no name has an upper-case letter), so the read costs nothing and its answer has no items.
async fn look(api: Arc<Api>, kind: &'static str) -> Answer<(Moment, u64)> {
    let began = api.now();
    let path = format!("{kind}?fieldSelector={}", query("metadata.name=KubeStack"));
    let list: List<Partial> = api.get(&path, crate::api::PARTIAL_LIST).await?;
    Ok((began, list.metadata.resource_version.parse().unwrap_or(0)))
}

/// The next line; `None` if there is no stream any more. Cancel-safe.
async fn line(stream: &mut Stream, buffer: &mut Vec<u8>) -> Answer<Option<Vec<u8>>> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let rest = buffer.split_off(end + 1);
            let line = std::mem::replace(buffer, rest);
            return Ok(Some(line));
        }
        if buffer.len() > MAX_LINE {
            return Err(Fault::Nonsense(format!("a line of the watch has more than {MAX_LINE} bytes")));
        }
        match stream {
            Stream::Closed => return Ok(None),
            Stream::Opening(opening) => match opening.as_mut().await {
                Ok(body) => *stream = Stream::Open(body),
                Err(fault) => {
                    *stream = Stream::Closed;
                    return Err(fault);
                }
            },
            Stream::Open(body) => match body.frame().await {
                Some(Ok(frame)) => buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                // Cut or ended, what was not told yet comes again: the watch goes on from the last whole line.
                Some(Err(_)) | None => return Ok(None),
            },
        }
    }
}
