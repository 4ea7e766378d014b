//! The units of this instance below one directory: what is on disk and in /proc, and who tends it.

use crate::disk::{Exit, Home, Record, private_dir};
use crate::fault::fault;
use crate::process::{Table, boot_id};
use crate::tend::{self, Tending};
use kubestack_core::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Changes that a watch may lag behind before it looks at everything instead.
const CHANGES: usize = 1024;
/// Of a failed unit's log, what its phase carries: enough to see why, little enough for any report.
const TOLD_LINES: usize = 20;
const TOLD_BYTES: u64 = 4096;

/// All that the provider, its watches and the tasks that tend units share.
pub struct Units {
    pub context: BuildContext,
    /// Absolute.
    pub root: PathBuf,
    pub term_grace: Duration,
    /// Starts the uid of each of our units, so that a process tells whose it is even if its directory is
    /// gone: same instance, same root.
    pub scope: String,
    changes: broadcast::Sender<WatchEvent>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opened: bool,
    tended: BTreeMap<Uid, Tended>,
    removing: BTreeSet<Uid>,
}

/// A unit with living processes has one task that waits for their end or brings it about.
struct Tended {
    /// As last told.
    unit: Unit,
    /// To end it, within that grace.
    order: watch::Sender<Option<Duration>>,
}

/// Access to the units. Whoever holds it sees and makes changes in one order, which is also the order in
/// which they are told. Never held across an await.
pub struct Access<'a> {
    units: &'a Arc<Units>,
    state: MutexGuard<'a, State>,
    /// Tasks to start once access is given back: a spawner may drop a task at once, and that needs access.
    starting: Vec<Tending>,
}

impl Units {
    pub fn new(context: BuildContext, root: PathBuf, term_grace: Duration) -> Self {
        let digest = Sha256::digest(format!("{}\n{}", context.instance, root.display()).as_bytes());
        let scope: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let changes = broadcast::Sender::new(CHANGES);
        Self { context, root, term_grace, scope, changes, state: Mutex::default() }
    }

    /// Runs `work` with access to the units.
    pub fn access<T>(self: &Arc<Self>, work: impl FnOnce(&mut Access<'_>) -> T) -> T {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut access = Access { units: self, state, starting: Vec::new() };
        let result = work(&mut access);
        let Access { state, starting, .. } = access;
        drop(state);
        for tending in starting {
            let name = format!("local unit {}", tending.uid);
            self.context.spawner.spawn(&name, Box::pin(tend::tend(Arc::clone(self), tending)));
        }
        result
    }

    /// The directory of that agent, if it has a name that we would give: names come from outside.
    pub fn home(&self, name: &AgentName) -> Option<Home> {
        let proper = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let name = name.as_str();
        (!name.is_empty() && name.bytes().all(proper)).then(|| Home(self.root.join(name)))
    }

    /// Where a directory stands while it is made or thrown away. Swept at the first look.
    pub fn aside(&self, name: &AgentName) -> PathBuf {
        self.root.join(format!(".{}-{name}", self.scope))
    }

    pub fn is_ours(&self, record: &Record) -> bool {
        record.marks.instance == self.context.instance
    }

    /// The record of one unit of ours; `None` if it is gone, or another one.
    pub fn record(&self, unit: &UnitRef) -> Result<Option<(Home, Record)>> {
        let Some(home) = self.home(&unit.name) else { return Ok(None) };
        let record =
            home.read().map_err(|error| fault(format!("cannot read {}", home.0.display()), &error))?;
        let found = record.filter(|record| self.is_ours(record) && record.uid == unit.uid);
        Ok(found.map(|record| (home, record)))
    }

    /// Takes a unit away that no process belongs to.
    pub async fn remove(self: &Arc<Self>, unit: &UnitRef, home: &Home) -> Result<()> {
        /// Also when dropped half-way, the unit may be marked and removed again.
        struct Removing<'a>(&'a Arc<Units>, &'a UnitRef);
        impl Drop for Removing<'_> {
            fn drop(&mut self) {
                self.0.access(|access| access.state.removing.remove(&self.1.uid));
            }
        }
        self.access(|access| access.begin_removing(&unit.uid));
        let _removing = Removing(self, unit);
        home.remove(&self.aside(&unit.name)).await.map_err(|error| {
            let (agent, path) = (&unit.name, home.0.display());
            let text = format!("cannot remove what {agent} left in {path}: {error}; remove it by hand");
            Error::new(ErrorKind::Transient, text)
        })?;
        self.access(|access| access.tell(WatchEvent::Gone(unit.clone())));
        Ok(())
    }
}

/// One look at this host, with the costly part only where it is needed.
struct Look {
    boot: String,
    table: Option<Table>,
}

impl Look {
    fn new() -> Result<Self> {
        Ok(Self { boot: boot_id().map_err(|error| fault("cannot read /proc", &error))?, table: None })
    }

    fn table(&mut self) -> Result<&Table> {
        let table = match self.table.take() {
            Some(table) => table,
            None => processes()?,
        };
        Ok(self.table.insert(table))
    }
}

/// All processes of this host.
pub fn processes() -> Result<Table> {
    Table::read().map_err(|error| fault("cannot read /proc", &error))
}

/// What is left to do once no process of a unit is left.
pub enum Finished {
    /// Nothing.
    Told,
    /// To remove its directory.
    Remove(Home),
}

impl Access<'_> {
    pub fn tell(&self, event: WatchEvent) {
        // Nobody may be watching.
        let _ = self.units.changes.send(event);
    }

    /// What changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<WatchEvent> {
        self.units.changes.subscribe()
    }

    pub fn begin_removing(&mut self, uid: &Uid) {
        self.state.removing.insert(uid.clone());
    }

    pub fn is_removing(&self, uid: &Uid) -> bool {
        self.state.removing.contains(uid)
    }

    /// Makes sure that the root is there and that what a crash left is taken up. Later the root is not made
    /// again: if it vanishes, that is not "no units" but an error (a disk that was unmounted).
    pub fn open(&mut self) -> Result<()> {
        if self.state.opened {
            return Ok(());
        }
        let root = &self.units.root;
        private_dir(root).map_err(|error| fault(format!("cannot make {}", root.display()), &error))?;
        // Before the listing: a process of ours starts only after its directory is there.
        let table = processes()?;
        let prefix = format!(".{}-", self.units.scope);
        let mut with_directory = BTreeSet::new();
        for name in self.names()? {
            if name.starts_with(&prefix) {
                let path = root.join(name);
                fs::remove_dir_all(&path)
                    .map_err(|error| fault(format!("cannot remove {}", path.display()), &error))?;
            } else if let Some((_, record)) = self.read(&name)? {
                with_directory.insert(record.uid);
            }
        }
        self.state.opened = true;
        // Processes of ours whose directory was removed by hand while nobody looked.
        let prefix = format!("{}-", self.units.scope);
        for uid in table.units() {
            if uid.starts_with(&prefix) && !with_directory.contains(uid) {
                tracing::warn!(unit = uid, "a unit's directory was removed by hand: ending its processes");
                let (_, order) = watch::channel(Some(self.units.term_grace));
                let (uid, leader) = (Uid::from(uid), table.leader(uid));
                self.starting.push(Tending { name: None, uid, leader, order, exit: None });
            }
        }
        Ok(())
    }

    /// All units of this instance, as they are now.
    pub fn scan(&mut self) -> Result<Vec<Unit>> {
        self.open()?;
        let mut look = Look::new()?;
        let mut units = BTreeMap::new();
        for name in self.names()? {
            if let Some((home, mut record)) = self.read(&name)? {
                let unit = self.settle_in(&mut look, &home, &mut record)?;
                units.insert(record.uid, unit);
            }
        }
        for (uid, tended) in &mut self.state.tended {
            // Its directory was removed by hand, which is as good a word as any to end it. It is told until
            // its processes are gone, since it takes room until then.
            if !units.contains_key(uid) {
                if tended.order.borrow().is_none() {
                    tended.unit.phase = UnitPhase::TERMINATING;
                    tended.unit.version += 1;
                    tended.order.send_replace(Some(self.units.term_grace));
                }
                units.insert(uid.clone(), tended.unit.clone());
            }
        }
        Ok(units.into_values().collect())
    }

    /// The same without a change to anything, as a daemon that tends these units would tell it.
    pub fn look(&self) -> Result<Vec<Unit>> {
        if !self.units.root.exists() {
            // Nothing was ever launched.
            return Ok(Vec::new());
        }
        let mut look = Look::new()?;
        let mut units = Vec::new();
        for name in self.names()? {
            let Some((home, mut record)) = self.read(&name)? else { continue };
            let leader = record.leader.clone();
            let members = look.table()?.members(record.uid.as_str(), leader.as_ref(), &BTreeSet::new());
            let lives = !members.is_empty();
            if leader.is_some() && !lives && record.ending.is_none() {
                record.exit = record.exit.or(Some(Exit::Unknown));
            }
            units.push(view(&home, &record, lives));
        }
        Ok(units)
    }

    /// Brings the record up to what the processes show, and returns the unit as it is.
    pub fn settle(&mut self, home: &Home, record: &mut Record) -> Result<Unit> {
        self.settle_in(&mut Look::new()?, home, record)
    }

    fn settle_in(&mut self, look: &mut Look, home: &Home, record: &mut Record) -> Result<Unit> {
        if record.exit.is_some() || self.state.tended.contains_key(&record.uid) {
            return Ok(self.view(home, record));
        }
        let leader = record.leader.clone();
        let unseen = |error| fault("cannot look at a process", &error);
        let lives = leader.as_ref().map_or(Ok(false), |leader| leader.is_alive(&look.boot));
        if record.ending.is_some() || lives.map_err(unseen)? {
            self.start(home, record);
            return Ok(self.view(home, record));
        }
        let table = look.table()?;
        let members = table.members(record.uid.as_str(), leader.as_ref(), &BTreeSet::new());
        if !members.is_empty() {
            if leader.is_some() {
                self.start(home, record);
                return Ok(self.view(home, record));
            }
            // A crash came between the start of the process and the record of it. It may have a job by now,
            // so it is taken on rather than ended.
            record.leader = table.leader(record.uid.as_str());
            self.start(home, record);
            return self.put(home, record);
        }
        let Some(leader) = leader else { return Ok(self.view(home, record)) };
        let reaped = leader.open().map_err(unseen)?;
        let rebooted = leader.boot != look.boot;
        let unknown = if rebooted { Exit::HostRestarted } else { Exit::Unknown };
        record.exit = Some(reaped.and_then(|handle| handle.reap()).unwrap_or(unknown));
        self.put(home, record)
    }

    /// Writes a changed record and tells the unit.
    pub fn put(&mut self, home: &Home, record: &mut Record) -> Result<Unit> {
        record.version += 1;
        home.write(record).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(format!("{} is gone", home.0.display())),
            _ => fault(format!("cannot write in {}", home.0.display()), &error),
        })?;
        let unit = self.view(home, record);
        if let Some(tended) = self.state.tended.get_mut(&record.uid) {
            tended.unit = unit.clone();
        }
        self.tell(WatchEvent::Applied(unit.clone()));
        Ok(unit)
    }

    /// Starts the task that tends the unit's processes.
    pub fn start(&mut self, home: &Home, record: &Record) {
        let (sender, order) = watch::channel(record.ending.map(|grace| grace.0));
        let unit = view(home, record, true);
        self.state.tended.insert(record.uid.clone(), Tended { unit, order: sender });
        self.starting.push(Tending {
            name: Some(record.marks.agent()),
            uid: record.uid.clone(),
            leader: record.leader.clone(),
            order,
            exit: None,
        });
    }

    /// Takes back [`Access::start`]: the task has not begun before access is given back.
    pub fn cancel_start(&mut self, uid: &Uid) {
        self.starting.retain(|tending| tending.uid != *uid);
        self.forget(uid);
    }

    /// Has the unit's processes ended within that grace, and the unit removed.
    pub fn end(&mut self, home: &Home, record: &mut Record, grace: Duration) -> Result<()> {
        if record.ending.is_none_or(|before| before.0 != grace) {
            record.ending = Some(kubestack_core::time::Span(grace));
            self.put(home, record)?;
        }
        if let Some(tended) = self.state.tended.get(&record.uid) {
            tended.order.send_replace(Some(grace));
        }
        Ok(())
    }

    /// No task tends the unit any more.
    pub fn forget(&mut self, uid: &Uid) {
        self.state.tended.remove(uid);
    }

    /// No process of the unit is left.
    pub fn finish(&mut self, unit: &UnitRef, exit: Option<Exit>) -> Result<Finished> {
        let Some((home, mut record)) = self.units.record(unit)? else {
            self.forget(&unit.uid);
            self.tell(WatchEvent::Gone(unit.clone()));
            return Ok(Finished::Told);
        };
        if record.ending.is_some() {
            return Ok(Finished::Remove(home));
        }
        self.ended(&home, &mut record, exit)?;
        Ok(Finished::Told)
    }

    /// Its processes are gone, but its directory could not be removed: it is told as ended, so that whoever
    /// wanted it gone asks again, and hears why.
    pub fn not_removed(&mut self, unit: &UnitRef, exit: Option<Exit>) -> Result<()> {
        if let Some((home, mut record)) = self.units.record(unit)? {
            record.ending = None;
            self.ended(&home, &mut record, exit)?;
        }
        Ok(())
    }

    fn ended(&mut self, home: &Home, record: &mut Record, exit: Option<Exit>) -> Result<Unit> {
        record.exit = exit.or(record.exit).or(Some(Exit::Unknown));
        self.put(home, record).inspect(|_| self.forget(&record.uid))
    }

    fn view(&self, home: &Home, record: &Record) -> Unit {
        view(home, record, self.state.tended.contains_key(&record.uid))
    }

    /// What stands in the root.
    fn names(&self) -> Result<Vec<String>> {
        let root = &self.units.root;
        let wrong = |error: &_| fault(format!("cannot list {}", root.display()), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(root).map_err(|error| wrong(&error))? {
            // A name that is no text is none that we gave.
            names.extend(entry.map_err(|error| wrong(&error))?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// The record of the unit of ours in that directory. A copy under another name is no unit.
    fn read(&self, name: &str) -> Result<Option<(Home, Record)>> {
        let Some(home) = self.units.home(&AgentName::from(name)) else { return Ok(None) };
        let record =
            home.read().map_err(|error| fault(format!("cannot read {}", home.0.display()), &error))?;
        let ours = |record: &Record| self.units.is_ours(record) && record.marks.agent().as_str() == name;
        Ok(record.filter(ours).map(|record| (home, record)))
    }
}

/// The unit of that record.
fn view(home: &Home, record: &Record, tended: bool) -> Unit {
    let phase = match record.exit {
        Some(exit) => ended_phase(exit, record.marks.used.is_some(), home),
        None if record.ending.is_some() => UnitPhase::TERMINATING,
        // Its process may be known or not yet: what is tended has one.
        None if tended => UnitPhase::Running,
        None => UnitPhase::Remnant,
    };
    Unit::new(record.uid.clone(), record.marks.clone(), phase, record.created).version(record.version)
}

/// A bad end is a failure only of what never began its job: what became of a job, its master knows.
fn ended_phase(exit: Exit, used: bool, home: &Home) -> UnitPhase {
    let failed = (!used).then_some(FailureCause::CrashLoop);
    let (cause, mut text) = match exit {
        Exit::Code(0) => return UnitPhase::Ended { cause: None, text: "exited with status 0".to_owned() },
        Exit::Code(code) => (failed, format!("exited with status {code}")),
        Exit::Signal(signal) => (failed, format!("ended by signal {signal}")),
        Exit::Unknown => (None, "ended while the daemon was not running; its status is unknown".to_owned()),
        Exit::HostRestarted => (Some(FailureCause::NodeLost), "the host was restarted".to_owned()),
    };
    // The words of the agent are a help, not a promise: without them the end is told all the same.
    let tail = home.log_tail(TOLD_LINES, TOLD_BYTES).unwrap_or_default();
    if !tail.is_empty() {
        text.push_str("; its last words:\n");
        text.push_str(&tail);
    }
    UnitPhase::Ended { cause, text }
}
