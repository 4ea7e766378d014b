//! How a request gets to the server: connections, TLS, a proxy. A seam: in tests, a service of theirs stands here.

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Client, connect::Connect};
use hyper_util::rt::TokioExecutor;
use kubestack_core::error::chain;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// A server that takes longer to accept a connection is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter than what Jetty and common proxies let an idle connection live (30 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// The body of an answer, as it comes.
pub type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Why no answer came.
#[derive(Clone, Debug)]
pub enum Lost {
    /// Nothing was sent.
    NotSent(String),
    /// It was, or may have been.
    NoAnswer(String),
}

/// Carries requests to one server.
pub type Wire = BoxCloneSyncService<Request<Full<Bytes>>, Response<AnswerBody>, Lost>;

/// Real connections, over the proxy if there is one.
///
/// # Errors
/// If `ca_file` cannot be read or holds no certificate.
pub fn connect(ca_file: Option<&Path>, proxy: Option<Uri>) -> Result<Wire, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let tls = tls(ca_file)?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(match proxy {
        None => service(builder.wrap_connector(tcp)),
        Some(proxy) => service(builder.wrap_connector(Tunnel::new(proxy, tcp))),
    })
}

fn service<C>(connector: HttpsConnector<C>) -> Wire
where
    HttpsConnector<C>: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        // A body of ours may have been read before the connection broke: whether to try again is not ours.
        .retry_canceled_requests(false)
        .build(connector);
    BoxCloneSyncService::new(service_fn(move |request| {
        let client = client.clone();
        async move {
            let answer = client.oneshot(request).await.map_err(|error| {
                let text = chain(&error);
                if error.is_connect() { Lost::NotSent(text) } else { Lost::NoAnswer(text) }
            })?;
            Ok(answer.map(|body| body.boxed_unsync()))
        }
    }))
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let Some(path) = ca_file else {
        // A host without authorities can still talk plain HTTP.
        return Ok(match builder.clone().with_native_roots() {
            Ok(builder) => builder.with_no_client_auth(),
            Err(_) => builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
        });
    };
    let wrong = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("{} holds no certificate in PEM form", path.display()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
