//! Several daemons contend for one lead, in virtual time, over a network that delays, cuts and loses, with clocks that run
//! unequally, and are killed at any moment: never do two lead, no term comes twice, nothing that was kept is lost. The
//! server is a service of ours; that a real one takes and refuses the same writes, `real_lead` shows.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "time is virtual here, and requests land whoever has given them up"
)]

mod common;

use common::leader::Leader;
use http::{Method, Request, Response};
use kube::client::{Body, Client};
use kubestack_core::context::Clock;
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = Duration::from_secs(15);

/// Small and repeatable; the quality of chance does not matter here.
#[derive(Clone)]
struct Chance(Arc<AtomicU64>);

impl Chance {
    fn below(&self, bound: u64) -> u64 {
        let mix = |state: u64| (state ^ (state >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        (mix(mix(state)) >> 33) % bound
    }

    fn millis(&self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// Objects by path, each with a version that every write changes.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
}

impl Store {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let refusal =
            |code: u16, reason: &str| (code, json!({"code": code, "reason": reason, "message": reason}));
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let path = if method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
        let known = self.objects.get(&path).cloned();
        if method == Method::GET {
            return known.map_or_else(|| refusal(404, "NotFound"), |known| (200, known));
        }
        let mut object = match (known, method == Method::POST) {
            (Some(_), true) => return refusal(409, "AlreadyExists"),
            (None, false) => return refusal(404, "NotFound"),
            (known, _) => known.unwrap_or_else(|| json!({"metadata": {}})),
        };
        let wanted = body.pointer("/metadata/resourceVersion");
        if wanted.is_some() && wanted != object.pointer("/metadata/resourceVersion") {
            return refusal(409, "Conflict");
        }
        merge(&mut object, body);
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path, object.clone());
        (200, object)
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Map::new().into();
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One daemon's way to the server: mostly quick, now and then slow or lossy for a while.
fn client(store: &Arc<Mutex<Store>>, chance: &Chance) -> Client {
    let (store, chance) = (store.clone(), chance.clone());
    Client::new(
        tower::service_fn(move |request: Request<Body>| {
            let (store, chance) = (store.clone(), chance.clone());
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let body = request.into_body().collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let delay = |chance: &Chance| match chance.below(8) {
                    0 => chance.millis(20_000),
                    1 => chance.millis(3_000),
                    _ => chance.millis(50),
                };
                sleep(delay(&chance)).await;
                if chance.below(20) == 0 {
                    std::future::pending::<()>().await;
                }
                let late = chance.below(20) == 0;
                let (away, back) = (delay(&chance), delay(&chance));
                // Given up by whoever asked, it goes on by itself.
                let landing = async move {
                    if late {
                        sleep(away).await;
                    }
                    store.lock().unwrap().answer(&method, &path, &body)
                };
                let (code, answer) = tokio::spawn(landing).await.unwrap();
                sleep(back).await;
                if chance.below(20) == 0 {
                    std::future::pending::<()>().await;
                }
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        }),
        "agents",
    )
}

/// A clock that runs too fast or too slow.
struct Skewed {
    /// What its host takes the time to be.
    wall: Moment,
    start: Instant,
    percent: u32,
}

#[async_trait]
impl Clock for Skewed {
    fn now(&self) -> Moment {
        self.wall + self.start.elapsed() * self.percent / 100
    }

    async fn sleep(&self, duration: Duration) {
        sleep(duration * 100 / self.percent).await;
    }
}

/// What all daemons of a world did, in the order of what came back to them.
#[derive(Default)]
struct Story {
    term: u64,
    leads: u32,
    /// The last leader said that nothing can land any more.
    clean: bool,
    /// The intent that was last said to be kept.
    kept: u64,
    /// The last one that anybody tried to keep.
    tried: u64,
}

/// One daemon from its start to its end, which is a kill, a stop or the loss of its lead.
async fn live(lead: Arc<dyn Coordination>, chance: Chance, story: Arc<Mutex<Story>>) {
    let Ok(leadership) = lead.acquire().await else { return };
    {
        let mut story = story.lock().unwrap();
        assert!(leadership.term > story.term, "term {} after {}", leadership.term, story.term);
        assert!(
            !leadership.clean_predecessor || story.clean,
            "term {} is told a clean start",
            leadership.term
        );
        let intent = leadership.intent.as_u64().unwrap_or(0);
        assert!((story.kept..=story.tried).contains(&intent), "intent {intent} after {}", story.kept);
        // Whatever of the leaders before had landed is read by now, and nothing of theirs lands any more.
        (story.term, story.clean, story.kept) = (leadership.term, false, intent);
        story.leads += 1;
    }
    while lead.holds() {
        sleep(chance.millis(10_000)).await;
        match chance.below(12) {
            0 => {
                let clean = chance.below(2) == 0;
                // From here on the next one may be told so, whether the answer comes or not.
                {
                    let mut story = story.lock().unwrap();
                    story.clean |= clean && story.term == leadership.term;
                }
                let _ = lead.release(clean).await;
                return;
            }
            1..6 => {
                let next = {
                    let mut story = story.lock().unwrap();
                    story.tried += 1;
                    story.tried
                };
                if lead.save_intent(json!(next)).await.is_ok() {
                    let mut story = story.lock().unwrap();
                    story.kept = story.kept.max(next);
                }
            }
            _ => {}
        }
    }
}

/// How often somebody came to lead in half an hour of that world.
async fn world(seed: u64) -> u32 {
    let chance = Chance(Arc::new(AtomicU64::new(seed.wrapping_mul(0x1234_5678_9ABC_DEF1))));
    let (store, story) = (
        Arc::new(Mutex::new(Store::default())),
        Arc::new(Mutex::new(Story { clean: true, ..Story::default() })),
    );
    let mut daemons: Vec<(Leader, JoinSet<()>)> = Vec::new();
    let end = Instant::now() + Duration::from_secs(1800);
    while Instant::now() < end {
        daemons.retain_mut(|(_, life)| {
            if let Some(ended) = life.try_join_next() {
                ended.unwrap();
            }
            !life.is_empty()
        });
        if daemons.len() < 3 {
            let mut context = common::context("ci");
            let percent = 85 + u32::try_from(chance.below(31)).unwrap();
            let wall = Moment::from_micros(chance.below(u64::from(u32::MAX)));
            context.clock = Arc::new(Skewed { wall, start: Instant::now(), percent });
            let client = client(&store, &chance);
            let leader =
                Leader::new(context, LEASE, |context| KubeProvider::with_client(context, client, "agents"));
            let mut life = JoinSet::new();
            life.spawn(live(leader.lead.clone(), chance.clone(), story.clone()));
            daemons.push((leader, life));
        } else if chance.below(600) == 0 {
            // Killed; what it has sent may still land.
            daemons.remove(usize::try_from(chance.below(3)).unwrap());
        }
        let leading = daemons.iter().filter(|(leader, _)| leader.lead.holds()).count();
        assert!(leading <= 1, "{leading} lead in world {seed}");
        sleep(Duration::from_millis(50)).await;
    }
    story.lock().unwrap().leads
}

/// `KUBESTACK_SEEDS` for other worlds: `FROM..TO`.
#[tokio::test(start_paused = true)]
async fn never_do_two_lead_and_nothing_that_was_kept_is_lost() {
    let seeds = std::env::var("KUBESTACK_SEEDS").unwrap_or_else(|_| "0..12".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let (mut leads, mut worlds) = (0, 0);
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        leads += timeout(Duration::from_secs(7200), world(seed)).await.unwrap();
        worlds += 1;
    }
    println!("{worlds} worlds, {leads} times somebody came to lead");
    assert!(leads > worlds * 10, "{leads} in {worlds} worlds: hardly anything happened");
}
