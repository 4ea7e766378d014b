//! Requests to one namespace of one cluster. Each is sent once: nothing here tries again.

use crate::fault::{Answer, Fault, wait};
use crate::object::{Status, StatusDetails};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::{Body, Client};
use kubestack_core::error::chain;
use kubestack_core::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// No answer of a request that reads may be larger: a page of 500 pods has a few MiB.
const MAX_ANSWER: usize = 64 << 20;
/// A read that takes longer is given up; the same as the API server's own limit would be too long for a view
/// that must not be stale.
const READ_DEADLINE: Duration = Duration::from_secs(25);

/// An object as it is.
pub const JSON: &str = "application/json";
/// Only the metadata of an object (Kubernetes API concepts, "Receiving resources as Tables" and below).
pub const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Only the metadata of a list's objects.
pub const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// One namespace of one cluster.
pub struct Api {
    client: Client,
    pub namespace: String,
    clock: Arc<dyn Clock>,
    /// The one limiter, led by the server: until then it asked all of us to wait.
    closed_until: Mutex<Moment>,
}

impl Api {
    pub fn new(client: Client, namespace: String, clock: Arc<dyn Clock>) -> Self {
        Self { client, namespace, clock, closed_until: Mutex::default() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// Reads an object or a list; `path` follows the namespace, with its query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Answer<T> {
        decode(&self.read(path, accept).await?)
    }

    /// Reads a text.
    pub async fn text(&self, path: &str) -> Answer<String> {
        Ok(String::from_utf8_lossy(&self.read(path, "*/*").await?).into_owned())
    }

    /// Opens a stream of lines.
    pub async fn stream(&self, path: &str, accept: &str) -> Answer<Body> {
        let opening = self.send(Method::GET, path, accept, None);
        Ok(self.bounded(opening).await?.into_body())
    }

    /// Creates an object of that kind (`pods`, `secrets`, with their query).
    pub async fn create<T: DeserializeOwned>(&self, kind: &str, object: &Value) -> Answer<T> {
        let answer = self.send(Method::POST, kind, JSON, Some((JSON, object))).await?;
        decode(&collect(answer).await?)
    }

    /// Whether we may do that in the namespace, to all or to the one of that name, as the server itself sees it
    /// (`SelfSubjectAccessReview`). `resource` may have its group and its part: `leases.coordination.k8s.io`, `pods/log`.
    pub async fn may(&self, verb: &str, resource: &str, name: Option<&str>) -> Answer<bool> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": self.namespace, "verb": verb, "group": group, "resource": resource,
                "subresource": subresource, "name": name,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let asking = async { self.create::<Value>(path, &review).await };
        let answer = self.bounded(asking).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default())
    }

    /// Applies a JSON merge patch to an object.
    pub async fn patch<T: DeserializeOwned>(&self, kind: &str, name: &str, patch: &Value) -> Answer<T> {
        let body = Some(("application/merge-patch+json", patch));
        let answer = self.send(Method::PATCH, &format!("{kind}/{name}"), JSON, body).await?;
        decode(&collect(answer).await?)
    }

    /// Deletes an object.
    pub async fn delete(&self, kind: &str, name: &str, options: &Value) -> Answer<()> {
        let body = Some((JSON, options));
        // What is left of the object does not matter, and its metadata are less to send.
        let answer = self.send(Method::DELETE, &format!("{kind}/{name}"), PARTIAL, body).await?;
        collect(answer).await.map(drop)
    }

    async fn read(&self, path: &str, accept: &str) -> Answer<Vec<u8>> {
        let reading = async { collect(self.send(Method::GET, path, accept, None).await?).await };
        self.bounded(reading).await
    }

    /// A read has no effect: it is given up when it takes too long. What changes something is the engine's
    /// to give up.
    async fn bounded<T>(&self, reading: impl Future<Output = Answer<T>>) -> Answer<T> {
        tokio::select! {
            biased;
            answer = reading => answer,
            () = self.clock.sleep(READ_DEADLINE) => {
                Err(Fault::NoAnswer(format!("no answer within {} s", READ_DEADLINE.as_secs())))
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Answer<Response<Body>> {
        self.admit()?;
        let uri = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/api/v1/namespaces/{}/{path}", self.namespace)
        };
        let request = Request::builder().method(method).uri(uri).header(ACCEPT, accept);
        let request = match body {
            Some((kind, value)) => {
                request.header(CONTENT_TYPE, kind).body(Body::from(value.to_string().into_bytes()))
            }
            None => request.body(Body::empty()),
        };
        let request = request.map_err(|error| Fault::NotSent(Error::bug(error.to_string())))?;
        let answer = self.client.send(request).await.map_err(|error| lost(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer).await)
    }

    /// Refuses to send while the server wants to be left alone.
    fn admit(&self) -> Answer<()> {
        let until = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let after = until.since(self.clock.now());
        if after.is_zero() {
            return Ok(());
        }
        let text = format!("the cluster asked to wait; {:.1} s are left", after.as_secs_f32());
        Err(Fault::NotSent(Error::new(ErrorKind::RateLimited { after }, text)))
    }

    /// Reads why the server refused; takes note if it asks to wait.
    async fn refusal(&self, answer: Response<Body>) -> Fault {
        let code = answer.status();
        let header =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = collect(answer).await.unwrap_or_default();
        let mut status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
            // Not the API server but something before it: its first line says most.
            let text = String::from_utf8_lossy(&body);
            let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
            Status { message: format!("{code} {line}").trim_end().to_owned(), ..Status::default() }
        });
        status.code = code.as_u16();
        let asked = code == StatusCode::TOO_MANY_REQUESTS || header.is_some();
        if asked {
            let after = wait(&status, header.as_deref());
            let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
            status.details = Some(StatusDetails { retry_after_seconds: seconds });
            let until = self.clock.now() + after;
            let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
            *closed = until.max(*closed);
        }
        Fault::Refused(status)
    }
}

async fn collect(answer: Response<Body>) -> Answer<Vec<u8>> {
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Fault::NoAnswer(format!("the answer was cut: {}", chain(&*error))))?;
    Ok(body.to_bytes().into())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::Nonsense(format!("the answer makes no sense: {error}")))
}

/// Why no answer came, and whether anything had been sent.
fn lost(error: &kube::Error) -> Fault {
    let text = match error {
        // Its own words add nothing to what is behind it.
        kube::Error::Service(inner) => chain(&**inner),
        kube::Error::HyperError(inner) => chain(inner),
        kube::Error::Auth(inner) => {
            return Fault::NotSent(Error::unauthorized(format!("no credentials: {}", chain(inner))));
        }
        other => chain(other),
    };
    if text.contains("invalid peer certificate") {
        return Fault::NotSent(Error::unauthorized(format!(
            "the cluster's certificate is not trusted; name its authority in `ca_file` ({text})"
        )));
    }
    let mut link: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = link {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return Fault::NotSent(Error::transient(format!("the cluster cannot be reached ({text})")));
        }
        link = error.source();
    }
    Fault::NoAnswer(text)
}

/// A text as the value of a query (RFC 3986: all but unreserved characters).
pub fn query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().fold(String::with_capacity(text.len()), |mut query, byte| {
        if plain(byte) {
            query.push(char::from(byte));
        } else {
            query.push_str(&format!("%{byte:02X}"));
        }
        query
    })
}
