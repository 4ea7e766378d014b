//! A client that notes when a request that creates something goes out.

use crate::site::{Access, USER_AGENT};
use anyhow::Result;
use http::{Method, Request};
use kube::client::Body;
use kubestack_core::name::AgentName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// When the first request for each agent went out, by kind (`pods`, `secrets`).
pub type Sent = BTreeMap<(AgentName, String), Instant>;

/// What went out.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Sent>>);

impl Wire {
    /// A client that notes what it sends.
    pub fn client(&self, access: &Access) -> Result<kube::Client> {
        let (inner, wire) = (access.client(USER_AGENT)?, self.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, wire) = (inner.clone(), wire.clone());
            async move {
                let request =
                    if request.method() == Method::POST { wire.note(request).await? } else { request };
                inner.send(request).await
            }
        });
        Ok(kube::Client::new(service, crate::site::NAMESPACE))
    }

    async fn note(&self, request: Request<Body>) -> kube::Result<Request<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let object: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = object.pointer("/metadata/name").and_then(serde_json::Value::as_str).unwrap_or_default();
        let kind = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.entry((AgentName::new(name), kind)).or_insert_with(Instant::now);
        Ok(Request::from_parts(head, Body::from(body)))
    }

    /// All that went out.
    pub fn sent(&self) -> Sent {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
