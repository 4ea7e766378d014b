//! What the tests of this crate share: what the engine would hand to the master.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by several test binaries")]

use kubestack_core::context::{Secrets, Spawner};
use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find, verify};
use kubestack_core::secrecy::SecretString;
use kubestack_jenkins as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

struct RuntimeClock {
    start: tokio::time::Instant,
    wall: Moment,
}

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Moment {
        self.wall + self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

struct NoTasks;

impl Spawner for NoTasks {
    fn spawn(&self, name: &str, _: Pin<Box<dyn Future<Output = ()> + Send>>) {
        panic!("the master needs no task, and started {name}");
    }
}

struct PlainSecrets;

impl Secrets for PlainSecrets {
    fn resolve(&self, secret: &SecretRef) -> Result<SecretString> {
        match secret {
            SecretRef::Text(text) => Ok(text.expose().into()),
            _ => Err(Error::invalid("only texts here")),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock begins with the wall's")]
pub fn build(config: Value) -> Result<Box<dyn CiMaster>> {
    verify()?;
    let Build::Master(build) = find(PluginKind::Master, "jenkins")?.build else { panic!("not a master") };
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let wall = Moment::from_micros(u64::try_from(wall.as_micros()).unwrap());
    let clock = Arc::new(RuntimeClock { start: tokio::time::Instant::now(), wall });
    let (tasks, secrets) = (Arc::new(NoTasks), Arc::new(PlainSecrets));
    let context = BuildContext::new("jenkins", "ci".into(), clock, tasks, secrets, "/nonexistent".into());
    build(&context, &Fragment::from_value(config))
}

/// A label that provides these besides its name.
pub fn label(name: &str, provides: &[&str]) -> LabelSpec {
    let mut label = LabelSpec::new(name);
    label.provides.extend(provides.iter().map(ToString::to_string));
    label
}

pub fn request(label: LabelSpec, serial: u64) -> EnrolRequest {
    let name = label.name.clone();
    let marks = Marks::new("ci".into(), name, "p".into(), Some("jenkins".into()), (1, serial), "t".into());
    EnrolRequest::new(label, marks)
}

pub fn context(labels: &[LabelSpec]) -> SourceContext {
    let labels: BTreeMap<_, _> = labels.iter().map(|label| (label.name.clone(), label.clone())).collect();
    SourceContext::new(labels)
}
