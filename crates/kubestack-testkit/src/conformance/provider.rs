//! The promises of a [`SlaveProvider`].

use super::view::View;
use super::{Check, Report, Verdict};
use futures_util::future::join_all;
use futures_util::poll;
use kubestack_core::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The provider under test, and how to use it.
pub trait ProviderSubject: Sync {
    /// A daemon's provider of that instance. Each call is another daemon: the one before may have been killed, and the
    /// platform is the same.
    fn provider(&self, instance: &str) -> Arc<dyn SlaveProvider>;

    /// A launch with these marks that the platform takes, of a unit that starts and goes on until it is taken away. It
    /// should have an enrolment with [`SECRET`] in it.
    fn request(&self, marks: Marks) -> LaunchRequest;

    /// The time that the provider has.
    fn clock(&self) -> Arc<dyn Clock>;

    /// What is not told within that is taken never to be told.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

/// The value of the secret in an enrolment.
pub const SECRET: &str = "s3cret-of-the-enrolment-5e1d";

const GRACE: Duration = Duration::from_secs(1);
const HERE: &str = "conform";
/// Another installation on the same platform.
const THERE: &str = "conform-other";

type Outcome = std::result::Result<(), String>;
type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One check: its name, what goes wrong where it is broken, whether a provider claims it, and how it is tried.
struct Promise {
    name: &'static str,
    otherwise: &'static str,
    claimed: fn(ProviderCapabilities) -> bool,
    run: for<'a> fn(&'a Suite<'a>) -> Running<'a>,
}

macro_rules! promises {
    ($($name:ident if $claimed:expr, otherwise $otherwise:literal;)*) => {
        &[$(Promise {
            name: stringify!($name),
            otherwise: $otherwise,
            claimed: $claimed,
            run: |suite| Box::pin(suite.$name()),
        }),*]
    };
}

const PROMISES: &[Promise] = promises! {
    a_launched_unit_is_told_with_its_marks if |_| true, otherwise "an agent is launched and forgotten";
    a_launch_is_idempotent_by_name if |_| true, otherwise "a crash between a launch and its answer makes a second agent";
    a_name_that_another_agent_has_is_refused if |_| true, otherwise "one agent is taken for another";
    a_launch_that_is_dropped_half_way_makes_at_most_one if |_| true, otherwise "a stop in mid-launch leaks";
    launches_at_once_do_not_disturb_each_other if |_| true, otherwise "a step of the load mixes up agents";
    a_daemon_that_was_killed_finds_its_units_again if |_| true, otherwise "a restart leaks agents";
    a_look_after_a_launch_shows_it if |_| true, otherwise "an agent that is there is taken for lost";
    a_watch_proves_how_current_it_is if |_| true, otherwise "what is gone is believed to be there";
    a_look_that_is_dropped_loses_nothing if |_| true, otherwise "changes are missed";
    a_mark_is_kept if |can| can.marks, otherwise "after a restart a used agent is given another job";
    a_mark_on_what_is_gone_is_not_found if |can| can.marks, otherwise "a mark seems kept and is not";
    a_held_unit_is_not_taken_away if |can| can.marks, otherwise "an operator's word does not count";
    what_is_taken_away_is_gone_and_stays_so if |_| true, otherwise "agents leak";
    only_the_very_unit_is_taken_away if |_| true, otherwise "a new agent dies for an old one of its name";
    what_has_started_is_spared_if_asked if |can| can.conditional_destroy, otherwise "a busy agent is killed";
    another_installation_sees_and_touches_nothing_of_ours if |_| true, otherwise "two installations kill each other's agents";
    nothing_that_is_told_shows_a_secret if |_| true, otherwise "secrets stand in logs";
};

/// Tries all promises of a provider. The platform must have nothing of the instances `conform` and `conform-other`;
/// what the suite makes it takes away again.
pub async fn provider(subject: &dyn ProviderSubject) -> Report {
    let mut report = Report::default();
    let claims = subject.provider(HERE).capabilities();
    for (index, promise) in PROMISES.iter().enumerate() {
        let first = u64::try_from(index).unwrap_or_default() * 100;
        let suite = Suite { subject, here: subject.provider(HERE), clock: subject.clock(), first };
        let verdict = if (promise.claimed)(claims) {
            let outcome = (promise.run)(&suite).await;
            match outcome.and(suite.clear().await) {
                Ok(()) => Verdict::Kept,
                Err(seen) => Verdict::Broken(seen),
            }
        } else {
            Verdict::NotClaimed
        };
        report.checks.push(Check { name: promise.name, otherwise: promise.otherwise, verdict });
    }
    report
}

struct Suite<'a> {
    subject: &'a dyn ProviderSubject,
    here: Arc<dyn SlaveProvider>,
    clock: Arc<dyn Clock>,
    /// The serials of a check begin there: none of its names is any other's.
    first: u64,
}

fn words(what: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {:?}: {error}", error.kind)
}

fn expect(holds: bool, seen: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(seen()) }
}

impl Suite<'_> {
    fn marks(&self, instance: &str, serial: u64) -> Marks {
        let (label, provider) = (LabelName::from("conform"), ProviderName::from("subject"));
        Marks::new(instance.into(), label, provider, None, (1, self.first + serial), "h".to_owned())
    }

    fn request(&self, serial: u64) -> LaunchRequest {
        self.subject.request(self.marks(HERE, serial))
    }

    async fn launched(&self, serial: u64) -> std::result::Result<Unit, String> {
        self.here.launch(&self.request(serial)).await.map_err(words("a launch"))
    }

    async fn view(&self) -> std::result::Result<View<'_>, String> {
        View::new(&*self.here, &*self.clock, self.subject.patience()).await
    }

    async fn destroyed(&self, unit: &Unit) -> Outcome {
        let request = DestroyRequest::new(unit.reference(), GRACE);
        self.here.destroy(&request).await.map_err(words("taking a unit away"))
    }

    /// Takes away what is left, as an engine would.
    async fn clear(&self) -> Outcome {
        let mut view = self.view().await?;
        for instance in [HERE, THERE] {
            let provider = self.subject.provider(instance);
            let (_, units) = provider.look().await.map_err(words("a look"))?;
            for unit in units {
                let held = MarkPatch::Released;
                if unit.marks.held.is_some() {
                    provider.mark(&unit.reference(), &held).await.map_err(words("a release"))?;
                }
                let request = DestroyRequest::new(unit.reference(), GRACE);
                provider.destroy(&request).await.map_err(words("taking a unit away"))?;
            }
        }
        view.until("the end of all units", |view| Ok(view.is_empty())).await
    }

    async fn a_launched_unit_is_told_with_its_marks(&self) -> Outcome {
        let mut view = self.view().await?;
        view.current(Moment::default()).await?;
        let request = self.request(1);
        let unit = self.here.launch(&request).await.map_err(words("a launch"))?;
        expect(unit.name == request.name && unit.marks == request.marks, || format!("{unit:?}"))?;
        view.until("the unit", |view| Ok(view.unit(&unit.name)?.is_some())).await?;
        view.until("its start", |view| Ok(view.unit(&unit.name)?.is_some_and(runs))).await?;
        let told = view.unit(&unit.name)?;
        expect(told.is_some_and(|told| (&told.uid, &told.marks) == (&unit.uid, &request.marks)), || {
            format!("launched {unit:?}, told {told:?}")
        })
    }

    async fn a_launch_is_idempotent_by_name(&self) -> Outcome {
        let first = self.launched(1).await?;
        let second = self.launched(1).await?;
        expect(first.uid == second.uid, || format!("{first:?} and then {second:?}"))?;
        let third = self.subject.provider(HERE).launch(&self.request(1)).await.map_err(words("a launch"))?;
        expect(first.uid == third.uid, || format!("{first:?} and by another daemon {third:?}"))?;
        let mut view = self.view().await?;
        view.current(self.clock.now()).await?;
        expect(view.unit(&first.name)?.is_some(), || "it is not told".to_owned())
    }

    async fn a_name_that_another_agent_has_is_refused(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let mut request = self.request(1);
        request.marks.serial += 1;
        // The name of the one, the marks of the other.
        match self.here.launch(&request).await {
            Ok(other) => {
                Err(format!("asked for {} of serial {}: {other:?}", unit.name, request.marks.serial))
            }
            Err(_) => {
                let (_, units) = self.here.look().await.map_err(words("a look"))?;
                let serials: Vec<u64> = units.iter().map(|unit| unit.marks.serial).collect();
                expect(serials == [unit.marks.serial], || format!("units of serials {serials:?}"))
            }
        }
    }

    async fn a_launch_that_is_dropped_half_way_makes_at_most_one(&self) -> Outcome {
        for polls in 0..8 {
            let request = self.request(polls);
            let mut launch = self.here.launch(&request);
            for _ in 0..=polls {
                if poll!(&mut launch).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let mut view = self.view().await?;
        for serial in 0..8 {
            let unit = self.launched(serial).await?;
            view.until("the unit", |view| Ok(view.unit(&unit.name)?.is_some())).await?;
        }
        Ok(())
    }

    async fn launches_at_once_do_not_disturb_each_other(&self) -> Outcome {
        let requests: Vec<_> = (0..8).map(|serial| self.request(serial)).collect();
        let launches = requests.iter().map(|request| self.here.launch(request));
        let units = join_all(launches).await;
        let mut view = self.view().await?;
        for (request, unit) in requests.iter().zip(units) {
            let unit = unit.map_err(words("a launch"))?;
            expect(unit.marks == request.marks, || format!("asked for {:?}: {unit:?}", request.marks))?;
            view.until("each unit", |view| {
                Ok(view.unit(&request.name)?.is_some_and(|told| told.uid == unit.uid))
            })
            .await?;
        }
        Ok(())
    }

    async fn a_daemon_that_was_killed_finds_its_units_again(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let again = self.subject.provider(HERE);
        let (_, units) = again.look().await.map_err(words("a look"))?;
        let found = units.iter().find(|found| found.name == unit.name);
        expect(found.is_some_and(|found| (&found.uid, &found.marks) == (&unit.uid, &unit.marks)), || {
            format!("launched {unit:?}, found {found:?}")
        })?;
        let mut view = View::new(&*again, &*self.clock, self.subject.patience()).await?;
        view.until("the unit", |view| Ok(view.unit(&unit.name)?.is_some())).await
    }

    async fn a_look_after_a_launch_shows_it(&self) -> Outcome {
        for serial in 0..5 {
            let unit = self.launched(serial).await?;
            let after = self.clock.now();
            let (began, units) = self.here.look().await.map_err(words("a look"))?;
            let seen = units.iter().any(|seen| seen.uid == unit.uid);
            expect(seen || began < after, || {
                format!("{unit:?} is not among {units:?}, read since {began:?}")
            })?;
            self.destroyed(&unit).await?;
        }
        Ok(())
    }

    async fn a_watch_proves_how_current_it_is(&self) -> Outcome {
        let mut view = self.view().await?;
        view.current(Moment::default()).await?;
        let unit = self.launched(1).await?;
        view.current(self.clock.now()).await?;
        expect(view.unit(&unit.name)?.is_some(), || "current since its launch, and without it".to_owned())?;
        // Where nothing happens, too.
        view.current(self.clock.now()).await
    }

    async fn a_look_that_is_dropped_loses_nothing(&self) -> Outcome {
        let mut view = self.view().await?;
        view.current(Moment::default()).await?;
        let mut units = Vec::new();
        for serial in 0..5 {
            view.cancelled().await?;
            units.push(self.launched(serial).await?);
            for _ in 0..serial {
                view.cancelled().await?;
            }
        }
        for unit in &units {
            view.until("each unit", |view| Ok(view.unit(&unit.name)?.is_some())).await?;
        }
        Ok(())
    }

    async fn a_mark_is_kept(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let job = "a job with \"odd\" letters: ä/#\n";
        let mut marks = unit.marks.clone();
        for patch in [MarkPatch::Used(job.to_owned()), MarkPatch::Held("why".to_owned()), MarkPatch::Released]
        {
            patch.apply(&mut marks);
            let marked = self.here.mark(&unit.reference(), &patch).await.map_err(words("a mark"))?;
            expect(marked.marks == marks, || format!("{patch:?} gave {:?}", marked.marks))?;
            let (_, units) = self.subject.provider(HERE).look().await.map_err(words("a look"))?;
            let found = units.iter().find(|found| found.uid == unit.uid).map(|found| &found.marks);
            expect(found == Some(&marks), || format!("{patch:?}, and another daemon sees {found:?}"))?;
        }
        Ok(())
    }

    async fn a_mark_on_what_is_gone_is_not_found(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let mut view = self.view().await?;
        self.destroyed(&unit).await?;
        view.until("its end", |view| Ok(view.unit(&unit.name)?.is_none())).await?;
        match self.here.mark(&unit.reference(), &MarkPatch::Used("j".to_owned())).await {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    }

    async fn a_held_unit_is_not_taken_away(&self) -> Outcome {
        let unit = self.launched(1).await?;
        self.here
            .mark(&unit.reference(), &MarkPatch::Held("why".to_owned()))
            .await
            .map_err(words("a mark"))?;
        let answer = self.here.destroy(&DestroyRequest::new(unit.reference(), GRACE)).await;
        expect(answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Conflict), || {
            format!("{answer:?}")
        })?;
        self.stands(&unit).await?;
        self.here.mark(&unit.reference(), &MarkPatch::Released).await.map_err(words("a release"))?;
        self.destroyed(&unit).await
    }

    /// That unit is there and is not being taken away.
    async fn stands(&self, unit: &Unit) -> Outcome {
        let (_, units) = self.here.look().await.map_err(words("a look"))?;
        let seen = units.iter().find(|seen| seen.uid == unit.uid);
        let leaves =
            |seen: &&Unit| matches!(seen.phase, UnitPhase::Terminating { .. } | UnitPhase::Ended { .. });
        expect(seen.is_some_and(|seen| !leaves(&seen)), || format!("{} is {seen:?}", unit.name))
    }

    async fn what_is_taken_away_is_gone_and_stays_so(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let mut view = self.view().await?;
        view.until("the unit", |view| Ok(view.unit(&unit.name)?.is_some())).await?;
        self.destroyed(&unit).await?;
        view.until("its end", |view| Ok(view.unit(&unit.name)?.is_none())).await?;
        // Sent again, after a crash say, it is done.
        self.destroyed(&unit).await?;
        let (_, units) = self.here.look().await.map_err(words("a look"))?;
        expect(units.is_empty(), || format!("there is still {units:?}"))
    }

    async fn only_the_very_unit_is_taken_away(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let older = UnitRef::new(unit.name.clone(), "00000000-0000-4000-8000-000000000000".into());
        // That one is gone, which is all that was wanted; a refusal does no harm either.
        let answer = self.here.destroy(&DestroyRequest::new(older, GRACE)).await;
        self.stands(&unit).await.map_err(|seen| format!("{seen} (it answered {answer:?})"))
    }

    async fn what_has_started_is_spared_if_asked(&self) -> Outcome {
        let unit = self.launched(1).await?;
        let mut view = self.view().await?;
        view.until("its start", |view| Ok(view.unit(&unit.name)?.is_some_and(runs))).await?;
        let mut request = DestroyRequest::new(unit.reference(), GRACE);
        request.only_if_not_started = true;
        let answer = self.here.destroy(&request).await;
        expect(answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Conflict), || {
            format!("{answer:?}")
        })?;
        self.stands(&unit).await
    }

    async fn another_installation_sees_and_touches_nothing_of_ours(&self) -> Outcome {
        let there = self.subject.provider(THERE);
        let ours = self.launched(1).await?;
        let theirs = there.launch(&self.subject.request(self.marks(THERE, 1))).await;
        let theirs = theirs.map_err(words("another installation's launch"))?;
        for (provider, unit, other) in [(&self.here, &ours, &theirs), (&there, &theirs, &ours)] {
            let (_, units) = provider.look().await.map_err(words("a look"))?;
            let uids: Vec<&Uid> = units.iter().map(|unit| &unit.uid).collect();
            expect(uids == [&unit.uid], || format!("{units:?}"))?;
            let answer = provider.destroy(&DestroyRequest::new(other.reference(), GRACE)).await;
            let marked = provider.mark(&other.reference(), &MarkPatch::Used("j".to_owned())).await;
            expect(marked.is_err(), || format!("it marked {marked:?} (and answered {answer:?})"))?;
        }
        self.stands(&ours).await?;
        let (_, units) = there.look().await.map_err(words("a look"))?;
        expect(units.iter().all(|unit| unit.marks.used.is_none()) && units.len() == 1, || {
            format!("{units:?}")
        })
    }

    async fn nothing_that_is_told_shows_a_secret(&self) -> Outcome {
        let request = self.request(1);
        let unit = self.here.launch(&request).await.map_err(words("a launch"))?;
        let (_, units) = self.here.look().await.map_err(words("a look"))?;
        let mut clash = request.clone();
        clash.marks.serial += 1;
        let refused = self.here.launch(&clash).await;
        let marked = self.here.mark(&unit.reference(), &MarkPatch::Used("j".to_owned())).await;
        for text in [
            format!("{request:?}"),
            format!("{unit:?}"),
            format!("{units:?}"),
            format!("{refused:?}"),
            format!("{marked:?}"),
        ] {
            expect(!text.contains(SECRET), || text.replace(SECRET, "(the secret)"))?;
        }
        Ok(())
    }
}

fn runs(unit: &Unit) -> bool {
    unit.phase == UnitPhase::Running
}
