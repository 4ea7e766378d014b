//! What the engine relies on in any provider, with processes of this host.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that shows its table")]

mod common;

use common::{Tasks, config, context};
use kubestack_core::context::Clock;
use kubestack_core::prelude::*;
use kubestack_local::LocalProvider;
use kubestack_testkit::conformance::{self, ProviderSubject, SECRET};
use kubestack_testkit::host::RuntimeClock;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Each daemon has a directory of its instance, and tasks of its own until the end of the test.
struct Subject {
    dir: tempfile::TempDir,
    tasks: Mutex<Vec<Arc<Tasks>>>,
    clock: Arc<RuntimeClock>,
}

impl ProviderSubject for Subject {
    fn provider(&self, instance: &str) -> Arc<dyn SlaveProvider> {
        let (mut context, tasks) = context(instance, Path::new("/nonexistent"));
        context.clock = self.clock.clone();
        self.tasks.lock().unwrap().push(tasks);
        let config = config(&["/bin/sh", "-c"], &self.dir.path().join("units"));
        Arc::new(LocalProvider::new(&context, config).unwrap())
    }

    fn request(&self, marks: Marks) -> LaunchRequest {
        let mut enrolment = Enrolment::default();
        enrolment.args.push("exec sleep 1000".to_owned());
        enrolment.secrets.insert("TOKEN".into(), SECRET.into());
        LaunchRequest::new(LabelSpec::new("conform"), marks, Some(enrolment))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }
}

#[tokio::test]
async fn local_keeps_the_promises_of_a_provider() {
    let clock = Arc::new(RuntimeClock::start());
    let subject = Subject { dir: tempfile::tempdir().unwrap(), tasks: Mutex::default(), clock };
    let report = conformance::provider(&subject).await;
    println!("{report}");
    assert_eq!(report.broken(), Vec::<&str>::new(), "{report}");
}
