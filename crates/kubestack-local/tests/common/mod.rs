//! A host for tests: real time, real tasks, real processes.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by several test binaries")]

use kubestack_core::context::Spawner;
use kubestack_core::prelude::*;
use kubestack_core::time::Span;
use kubestack_local::{LocalConfig, LocalProvider};
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// Ends its tasks when dropped, as the engine does when it stops.
#[derive(Default)]
pub struct Tasks(Mutex<JoinSet<()>>);

impl Spawner for Tasks {
    fn spawn(&self, _: &str, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.lock().unwrap().spawn(task);
    }
}

/// What the engine hands to the provider `local` of that instance, and the tasks it starts.
pub fn context(instance: &str, state_dir: &Path) -> (BuildContext, Arc<Tasks>) {
    let tasks = Arc::new(Tasks::default());
    let mut context = kubestack_testkit::host::context("local", instance);
    context.spawner = tasks.clone();
    context.state_dir = state_dir.to_owned();
    (context, tasks)
}

/// One daemon's worth of provider.
pub struct Host {
    pub provider: LocalProvider,
    pub instance: InstanceName,
    tasks: Arc<Tasks>,
}

pub fn config(command: &[&str], dir: &Path) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.command = command.iter().map(|&word| word.to_owned()).collect();
    config.dir = Some(dir.to_owned());
    config.term_grace = Span(Duration::from_millis(300));
    config
}

impl Host {
    /// Its agents are shell scripts.
    pub fn new(instance: &str, dir: &Path) -> Self {
        Self::with(instance, config(&["/bin/sh", "-c"], dir))
    }

    pub fn with(instance: &str, config: LocalConfig) -> Self {
        let (context, tasks) = context(instance, Path::new("/nonexistent"));
        Self { provider: LocalProvider::new(&context, config).unwrap(), instance: instance.into(), tasks }
    }

    /// Ends the daemon, as far as that can be had within one process.
    pub async fn stop(self) {
        let mut tasks = std::mem::take(&mut *self.tasks.0.lock().unwrap());
        tasks.shutdown().await;
    }

    pub fn marks(&self, serial: u64) -> Marks {
        Marks::new(self.instance.clone(), "small".into(), "local".into(), None, (1, serial), "h".into())
    }

    pub fn request(&self, serial: u64, script: &str) -> LaunchRequest {
        let mut enrolment = Enrolment::default();
        enrolment.args.push(script.to_owned());
        LaunchRequest::new(LabelSpec::new("small"), self.marks(serial), Some(enrolment))
    }

    pub async fn launch(&self, serial: u64, script: &str) -> Unit {
        self.provider.launch(&self.request(serial, script)).await.unwrap()
    }

    pub async fn destroy(&self, unit: &Unit, grace: Duration) -> Result<()> {
        self.provider.destroy(&DestroyRequest::new(unit.reference(), grace)).await
    }

    pub async fn view(&self) -> View {
        View { watch: self.provider.watch().await.unwrap(), units: BTreeMap::new(), looks: 0 }
    }
}

/// What a watch has told so far, kept as the engine keeps it.
pub struct View {
    watch: Box<dyn UnitWatch>,
    pub units: BTreeMap<AgentName, Unit>,
    /// Complete looks so far.
    pub looks: u32,
}

impl View {
    pub async fn next(&mut self) -> Result<()> {
        match self.watch.next().await? {
            WatchEvent::Complete { units, .. } => {
                self.looks += 1;
                self.units = units.into_iter().map(|unit| (unit.name.clone(), unit)).collect();
            }
            WatchEvent::Applied(unit) => {
                if let Some(before) = self.units.get(&unit.name) {
                    assert!(before.version < unit.version, "{before:?} then {unit:?}");
                }
                self.units.insert(unit.name.clone(), unit);
            }
            WatchEvent::Gone(reference) => {
                self.units.remove(&reference.name);
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// Watches until that holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&BTreeMap<AgentName, Unit>) -> bool) {
        let watching = async {
            while self.looks == 0 || !holds(&self.units) {
                self.next().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), watching).await;
        assert!(waited.is_ok(), "never {what}: {:?}", self.units);
    }

    pub async fn until_gone(&mut self, unit: &Unit) {
        self.until("gone", |units| !units.contains_key(&unit.name)).await;
    }

    /// Watches until the unit ended, and returns cause and words.
    pub async fn until_ended(&mut self, unit: &Unit) -> (Option<FailureCause>, String) {
        let ended =
            |units: &BTreeMap<AgentName, Unit>| match units.get(&unit.name).map(|unit| unit.phase.clone()) {
                Some(UnitPhase::Ended { cause, text }) => Some((cause, text)),
                _ => None,
            };
        self.until("ended", |units| ended(units).is_some()).await;
        ended(&self.units).unwrap()
    }

    pub fn phase(&self, unit: &Unit) -> Option<&UnitPhase> {
        self.units.get(&unit.name).map(|unit| &unit.phase)
    }
}

/// Waits until that holds: for what only the kernel or a script knows, which tells nobody.
#[expect(clippy::disallowed_methods, reason = "a condition without a notification is looked at again")]
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}");
}

/// The living processes that carry this uid, or one that begins so: by other means than the crate's own.
pub fn marked(uid: &str) -> Vec<i32> {
    let wanted = format!("KUBESTACK_LOCAL_UNIT={uid}");
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        environ.split(|byte| *byte == 0).any(|line| line.starts_with(wanted.as_bytes())).then_some(pid)
    });
    pids.filter(|pid| alive(*pid)).collect()
}

/// Whether that process runs.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// The pid that a script wrote into a file of its working directory.
pub async fn written_pid(dir: &Path, unit: &Unit, file: &str) -> i32 {
    let path = dir.join(unit.name.as_str()).join("work").join(file);
    let read = || std::fs::read_to_string(&path).ok()?.trim().parse::<i32>().ok();
    until("a pid written", || read().is_some()).await;
    read().unwrap()
}

/// A stranger: a process that nobody here may touch. Ended when dropped.
pub struct Stranger(pub std::process::Child);

impl Stranger {
    pub fn new(env: &[(&str, &str)]) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sleep");
        Self(command.arg("1000").envs(env.iter().copied()).process_group(0).spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Its start time: field 22 of its stat.
    pub fn start(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a unit's directory by hand, with that in its record beyond the usual.
pub fn write_unit(dir: &Path, marks: &Marks, uid: &str, more: &serde_json::Value) -> Unit {
    let home = dir.join(marks.agent().as_str());
    std::fs::create_dir_all(home.join("work")).unwrap();
    let mut record = serde_json::json!({"uid": uid, "version": 1, "created": 1, "marks": marks});
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    std::fs::write(home.join("unit.json"), record.to_string()).unwrap();
    Unit::new(uid.into(), marks.clone(), UnitPhase::Remnant, Moment::from_micros(1))
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}
