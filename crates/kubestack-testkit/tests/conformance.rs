//! The suites can fail: for each promise there is a provider that breaks it, in virtual time.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that shows what its suites say")]

use kubestack_core::context::Clock;
use kubestack_core::prelude::*;
use kubestack_core::secrecy::ExposeSecret;
use kubestack_testkit::conformance::{self, ProviderSubject, SECRET};
use kubestack_testkit::host::RuntimeClock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What is wrong with a provider, by the name of the promise that it breaks.
type Flaw = &'static str;

const FLAWS: [Flaw; 17] = [
    "a_launched_unit_is_told_with_its_marks",
    "a_launch_is_idempotent_by_name",
    "a_name_that_another_agent_has_is_refused",
    "a_launch_that_is_dropped_half_way_makes_at_most_one",
    "launches_at_once_do_not_disturb_each_other",
    "a_daemon_that_was_killed_finds_its_units_again",
    "a_look_after_a_launch_shows_it",
    "a_watch_proves_how_current_it_is",
    "a_look_that_is_dropped_loses_nothing",
    "a_mark_is_kept",
    "a_mark_on_what_is_gone_is_not_found",
    "a_held_unit_is_not_taken_away",
    "what_is_taken_away_is_gone_and_stays_so",
    "only_the_very_unit_is_taken_away",
    "what_has_started_is_spared_if_asked",
    "another_installation_sees_and_touches_nothing_of_ours",
    "nothing_that_is_told_shows_a_secret",
];

#[derive(Default)]
struct Platform {
    units: Vec<Unit>,
    made: u32,
    /// Where a provider that mixes up launches keeps what it is to launch.
    asked: Option<Marks>,
}

/// One daemon's provider of a platform in memory.
#[derive(Clone)]
struct Memory {
    platform: Arc<Mutex<Platform>>,
    instance: InstanceName,
    clock: Arc<RuntimeClock>,
    flaw: Option<Flaw>,
    /// What this very daemon has launched, and its last look.
    own: Arc<Mutex<(Vec<Uid>, Vec<Unit>)>>,
}

impl Memory {
    fn breaks(&self, promise: Flaw) -> bool {
        self.flaw == Some(promise)
    }

    fn platform(&self) -> MutexGuard<'_, Platform> {
        self.platform.lock().unwrap()
    }

    fn read(&self) -> Vec<Unit> {
        let everything = self.breaks("another_installation_sees_and_touches_nothing_of_ours");
        let forgets = self.breaks("a_daemon_that_was_killed_finds_its_units_again");
        let (own, platform) = (self.own.lock().unwrap(), self.platform());
        let units = platform.units.iter().filter(|unit| everything || unit.marks.instance == self.instance);
        let mut units: Vec<Unit> =
            units.filter(|unit| !forgets || own.0.contains(&unit.uid)).cloned().collect();
        if self.breaks("a_launched_unit_is_told_with_its_marks") {
            units.iter_mut().for_each(|unit| unit.marks.template.clear());
        }
        units
    }
}

#[async_trait]
impl SlaveProvider for Memory {
    fn capabilities(&self) -> ProviderCapabilities {
        let mut capabilities = ProviderCapabilities::default();
        (capabilities.marks, capabilities.conditional_destroy) = (true, true);
        capabilities
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(Looks { of: self.clone(), told: None }))
    }

    async fn look(&self) -> Result<(Moment, Vec<Unit>)> {
        let (began, mut units) = (self.clock.now(), self.read());
        if self.breaks("a_look_after_a_launch_shows_it") {
            // What it saw the last time.
            std::mem::swap(&mut units, &mut self.own.lock().unwrap().1);
        }
        Ok((began, units))
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        let mut marks = request.marks.clone();
        if self.breaks("launches_at_once_do_not_disturb_each_other") {
            self.platform().asked = Some(marks);
            tokio::task::yield_now().await;
            marks = self.platform().asked.clone().unwrap();
        }
        let same = |unit: &&Unit| unit.name == request.name || unit.name == request.marks.agent();
        if !self.breaks("a_launch_is_idempotent_by_name")
            && let Some(known) = self.platform().units.iter().find(same)
        {
            let confuses = self.breaks("a_name_that_another_agent_has_is_refused");
            if known.marks.serial != request.marks.serial && !confuses {
                return Err(Error::conflict("another agent has the name"));
            }
            return Ok(known.clone());
        }
        if marks.agent() != request.name && self.flaw.is_none() {
            return Err(Error::bug("name and marks do not belong together"));
        }
        let mut unit = {
            let mut platform = self.platform();
            platform.made += 1;
            Unit::new(
                format!("u{}", platform.made).as_str().into(),
                marks,
                UnitPhase::Running,
                self.clock.now(),
            )
        };
        if self.breaks("nothing_that_is_told_shows_a_secret") {
            let secrets = request.enrolment.iter().flat_map(|enrolment| enrolment.secrets.values());
            let text = secrets.map(|secret| secret.expose_secret().to_owned()).collect();
            unit.phase = UnitPhase::Pending { cause: None, text };
        }
        if self.breaks("a_launch_that_is_dropped_half_way_makes_at_most_one") {
            // Under way before it is known by its name.
            let (mut nameless, name) = (unit.clone(), unit.name.clone());
            nameless.name = format!("{name}-in-the-making").as_str().into();
            self.platform().units.push(nameless);
            tokio::task::yield_now().await;
            let mut platform = self.platform();
            platform.units.retain(|made| made.uid != unit.uid);
            platform.units.push(unit.clone());
            // What was dropped half-way comes to its end all the same.
            platform.units.iter_mut().filter(|made| made.name.as_str().starts_with(name.as_str())).for_each(
                |made| {
                    made.name = name.clone();
                },
            );
        } else {
            self.platform().units.push(unit.clone());
        }
        self.own.lock().unwrap().0.push(unit.uid.clone());
        Ok(unit)
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        let by_name = self.breaks("only_the_very_unit_is_taken_away");
        let meant = |unit: &Unit| {
            unit.name == request.unit.name
                && (by_name || unit.uid == request.unit.uid)
                && unit.marks.instance == self.instance
        };
        let mut platform = self.platform();
        let Some(unit) = platform.units.iter().find(|unit| meant(unit)) else { return Ok(()) };
        if unit.marks.held.is_some() && !self.breaks("a_held_unit_is_not_taken_away") {
            return Err(Error::conflict("it is held"));
        }
        if request.only_if_not_started && !self.breaks("what_has_started_is_spared_if_asked") {
            return Err(Error::conflict("it has started"));
        }
        if !self.breaks("what_is_taken_away_is_gone_and_stays_so") {
            platform.units.retain(|unit| !meant(unit));
        }
        Ok(())
    }

    async fn mark(&self, reference: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        let mut platform = self.platform();
        let ours = |unit: &&mut Unit| unit.reference() == *reference && unit.marks.instance == self.instance;
        let Some(unit) = platform.units.iter_mut().find(ours) else {
            if self.breaks("a_mark_on_what_is_gone_is_not_found") {
                let marks = Marks::new("x".into(), "x".into(), "x".into(), None, (1, 1), "h".into());
                return Ok(Unit::new("x".into(), marks, UnitPhase::Running, Moment::default()));
            }
            return Err(Error::not_found("there is no such unit"));
        };
        let mut marked = unit.clone();
        patch.apply(&mut marked.marks);
        if !self.breaks("a_mark_is_kept") {
            *unit = marked.clone();
        }
        Ok(marked)
    }
}

/// Tells everything ten times a second.
struct Looks {
    of: Memory,
    told: Option<BTreeMap<Uid, Unit>>,
}

#[async_trait]
impl UnitWatch for Looks {
    async fn next(&mut self) -> Result<WatchEvent> {
        if self.told.is_some() {
            self.of.clock.sleep(Duration::from_millis(100)).await;
        }
        let (began, units) = (self.of.clock.now(), self.of.read());
        let now: BTreeMap<Uid, Unit> = units.iter().map(|unit| (unit.uid.clone(), unit.clone())).collect();
        if self.of.breaks("a_watch_proves_how_current_it_is") && self.told.is_some() {
            // It tells what happens, and nothing where nothing does.
            loop {
                let told = self.told.get_or_insert_default();
                let news = self.of.read();
                let gone = told.values().find(|unit| !news.contains(unit)).cloned();
                if let Some(gone) = gone {
                    told.remove(&gone.uid);
                    return Ok(WatchEvent::Gone(gone.reference()));
                }
                if let Some(new) = news.into_iter().find(|unit| !told.contains_key(&unit.uid)) {
                    told.insert(new.uid.clone(), new.clone());
                    return Ok(WatchEvent::Applied(new));
                }
                self.of.clock.sleep(Duration::from_millis(100)).await;
            }
        }
        let before = self.told.replace(now);
        if self.of.breaks("a_look_that_is_dropped_loses_nothing") && before.is_some() {
            // What it tells next it has already ticked off.
            let before = before.unwrap_or_default();
            let new = units.into_iter().find(|unit| !before.contains_key(&unit.uid));
            tokio::task::yield_now().await;
            return Ok(new.map_or(WatchEvent::Current { as_of: began }, WatchEvent::Applied));
        }
        Ok(WatchEvent::Complete { began, units })
    }
}

struct Subject {
    platform: Arc<Mutex<Platform>>,
    clock: Arc<RuntimeClock>,
    flaw: Option<Flaw>,
}

impl ProviderSubject for Subject {
    fn provider(&self, instance: &str) -> Arc<dyn SlaveProvider> {
        let (platform, clock) = (self.platform.clone(), self.clock.clone());
        Arc::new(Memory { platform, instance: instance.into(), clock, flaw: self.flaw, own: Arc::default() })
    }

    fn request(&self, marks: Marks) -> LaunchRequest {
        let mut enrolment = Enrolment::default();
        enrolment.secrets.insert("TOKEN".into(), SECRET.into());
        LaunchRequest::new(LabelSpec::new("conform"), marks, Some(enrolment))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }
}

async fn report(flaw: Option<Flaw>) -> conformance::Report {
    let clock = Arc::new(RuntimeClock::start());
    conformance::provider(&Subject { platform: Arc::default(), clock, flaw }).await
}

#[tokio::test(start_paused = true)]
async fn a_provider_without_a_flaw_breaks_nothing_and_one_with_a_flaw_breaks_that_promise() {
    let flawless = report(None).await;
    println!("{flawless}");
    assert_eq!(flawless.broken(), Vec::<&str>::new(), "{flawless}");
    let names: Vec<&str> = flawless.checks.iter().map(|check| check.name).collect();
    assert_eq!(names, FLAWS, "each promise has its flaw");
    for flaw in FLAWS {
        let report = report(Some(flaw)).await;
        println!("{flaw}: {:?}", report.broken());
        assert!(report.broken().contains(&flaw), "{flaw} is not noticed:\n{report}");
    }
}
