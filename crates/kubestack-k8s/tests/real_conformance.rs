//! What the engine relies on in any provider, on a real API server with the rights of `deploy/role.yaml`; the pods run on
//! fake nodes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that shows its table")]

mod common;

use common::site::{Site, config, provider, shared};
use common::{context, label};
use kubestack_core::context::Clock;
use kubestack_core::prelude::*;
use kubestack_testkit::conformance::{self, ProviderSubject, SECRET};
use std::sync::Arc;

struct Subject<'a>(Site<'a>);

impl ProviderSubject for Subject<'_> {
    fn provider(&self, instance: &str) -> Arc<dyn SlaveProvider> {
        let config = config(self.0.cluster, &self.0.namespace, &self.0.token);
        Arc::new(provider(instance, &config).unwrap())
    }

    fn request(&self, marks: Marks) -> LaunchRequest {
        let mut enrolment = Enrolment::default();
        enrolment.secrets.insert("TOKEN".into(), SECRET.into());
        LaunchRequest::new(label(), marks, Some(enrolment))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        context("any").clock
    }
}

#[tokio::test]
async fn kubernetes_keeps_the_promises_of_a_provider() {
    let Some(cluster) = shared() else { return };
    let report = conformance::provider(&Subject(Site::new(cluster, "conform"))).await;
    println!("{report}");
    assert_eq!(report.broken(), Vec::<&str>::new(), "{report}");
}
