//! The engine while it waits for its lead, keeps it up, and loses it.

use kubestack_core::context::Spawner;
use kubestack_core::prelude::*;
use kubestack_engine::{Command, End, Engine, Setup};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Waits for a word of the test, and keeps a word only once a task of its own has run.
struct Scripted {
    spawner: Arc<dyn Spawner>,
    may_lead: Notify,
    lost: Notify,
}

#[async_trait]
impl Coordination for Scripted {
    async fn acquire(&self) -> Result<Leadership> {
        self.may_lead.notified().await;
        Ok(Leadership::new(7, true, None, Value::Null))
    }

    fn waits_for(&self) -> Option<String> {
        Some("somebody leads".to_owned())
    }

    fn holds(&self) -> bool {
        true
    }

    async fn lost(&self) {
        self.lost.notified().await;
    }

    async fn save_intent(&self, _: Value) -> Result<()> {
        let done = Arc::new(Notify::new());
        let renewal = done.clone();
        self.spawner.spawn("renewal", Box::pin(async move { renewal.notify_one() }));
        done.notified().await;
        Ok(())
    }

    async fn save_memory(&self, memory: Value) -> Result<()> {
        self.save_intent(memory).await
    }

    async fn release(&self, _: bool) -> Result<()> {
        Ok(())
    }
}

// Where nothing moves any more, virtual time runs to the end of the bound.
#[tokio::test(start_paused = true)]
async fn one_that_stands_by_says_so_and_one_that_lost_its_lead_ends() {
    let builder = Engine::builder(Setup::new("ci"));
    let (may_lead, lost) = (Notify::new(), Notify::new());
    let lead = Arc::new(Scripted { spawner: builder.spawner(), may_lead, lost });
    let engine = builder.coordination(lead.clone()).build().unwrap();
    let handle = engine.handle();
    let story = async {
        let error = handle.status().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert_eq!(error.message, "this daemon stands by: somebody leads");
        let pause = Command::Pause { reason: "x".into() };
        assert_eq!(handle.command(pause.clone()).await.unwrap_err().message, error.message);
        let later = handle.reconfigure(Setup::new("ci")).await.unwrap_err();
        assert_eq!((later.kind, later.message), (ErrorKind::Transient, error.message));
        lead.may_lead.notify_one();
        // What asked while the lead came is refused, or answered.
        let status = loop {
            if let Ok(status) = handle.status().await {
                break status;
            }
        };
        assert_eq!(status.term, 7);
        // Kept only if tasks run meanwhile: one of them may be what keeps up the lead.
        handle.command(pause).await.unwrap();
        assert_eq!(handle.status().await.unwrap().paused.as_deref(), Some("x"));
        // There is nothing to send and nothing to hear, and yet it ends.
        lead.lost.notify_one();
        std::future::pending::<()>().await
    };
    let bound = Duration::from_secs(86_400);
    assert_eq!(timeout(bound, engine.run(story)).await.unwrap().unwrap(), End::LostLead);
}

#[tokio::test]
async fn one_that_stands_by_can_be_stopped() {
    let builder = Engine::builder(Setup::new("ci"));
    let lead = Scripted { spawner: builder.spawner(), may_lead: Notify::new(), lost: Notify::new() };
    let engine = builder.coordination(Arc::new(lead)).build().unwrap();
    assert_eq!(engine.run(async {}).await.unwrap(), End::Stopped);
}
