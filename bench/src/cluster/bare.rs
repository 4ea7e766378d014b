//! The ceiling: a loop that creates the very objects that KubeStack creates, and does nothing else.

use crate::desk::enrolment;
use crate::run::{context, label, marks};
use crate::site::{NAMESPACE, Site, USER_AGENT};
use anyhow::{Context, Result, bail};
use http::{Request, Response, header};
use kube::client::Body;
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// As many as the engine has under way towards one system.
pub const AT_ONCE: u32 = 64;

/// The requests of one launch, Secret first, as texts in which the agent's name stands.
struct Template {
    agent: String,
    requests: Vec<(String, String)>,
}

/// What the provider sends for one launch, caught before it gets out.
async fn template() -> Result<Template> {
    let caught = Arc::new(Mutex::new(Vec::new()));
    let sink = caught.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let sink = sink.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect_bytes().await?;
            let text = String::from_utf8_lossy(&body).into_owned();
            sink.lock().unwrap_or_else(PoisonError::into_inner).push((path, text));
            Ok::<_, kube::Error>(Response::new(Body::from(body)))
        }
    });
    let client = kube::Client::new(service, NAMESPACE);
    let provider = KubeProvider::with_client(&context("bare"), client, NAMESPACE);
    let marks = marks("bare", 1);
    let agent = marks.agent();
    // An uid is all that the answer lacks, and the Secret's is not looked at.
    provider.launch(&LaunchRequest::new(label(), marks, Some(enrolment(&agent)))).await?;
    let requests = std::mem::take(&mut *caught.lock().unwrap_or_else(PoisonError::into_inner));
    if requests.len() != 2 {
        bail!("a launch was to take two requests and took {}", requests.len());
    }
    Ok(Template { agent: agent.as_str().to_owned(), requests })
}

/// How long it takes to create that many pairs.
pub async fn create(site: &Site, launches: u32, round: u32) -> Result<Duration> {
    let template = Arc::new(template().await?);
    let client = site.access.client(USER_AGENT)?;
    create_one(&client, &template, &format!("bare-{round}-first")).await?;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (client, template) = (client.clone(), template.clone());
        tasks.spawn(async move {
            for number in (1..launches).filter(|number| number % AT_ONCE == lane) {
                create_one(&client, &template, &format!("bare-{round}-{number}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(began.elapsed().mul_f64(f64::from(launches) / f64::from(launches - 1)))
}

async fn create_one(client: &kube::Client, template: &Template, name: &str) -> Result<()> {
    for (path, text) in &template.requests {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(text.replace(&template.agent, name).into_bytes()))?;
        let answer = client.send(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect_bytes().await.context("half an answer")?;
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}
