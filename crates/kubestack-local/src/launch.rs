//! Launching one unit.

use crate::UNIT_ENV;
use crate::disk::{Home, Leader, Record};
use crate::fault::{fault, spawn_fault};
use crate::units::{Access, Units};
use kubestack_core::prelude::*;
use kubestack_core::secrecy::{ExposeSecret, SecretString};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// All that an agent sees of the daemon's own environment, where its secrets may stand.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Launches one unit. A kill of the daemon leaves, at whatever point it comes: nothing of a name of its own
/// (swept at the next start); a directory without a process (a remnant); a process that carries the uid of
/// a directory (taken on at the next look); or a unit.
pub fn launch(
    units: &Units,
    access: &mut Access<'_>,
    command: &[String],
    request: &LaunchRequest,
) -> Result<Unit> {
    access.open()?;
    let name = &request.name;
    let proper = request.marks.agent() == *name && request.marks.instance == units.context.instance;
    let Some(home) = units.home(name).filter(|_| proper) else {
        return Err(Error::bug(format!("the name and the marks of agent `{name}` do not belong together")));
    };
    if let Some(unit) = existing(units, access, &home)? {
        return Ok(unit);
    }
    let mut program = program(command, request)?;
    program.envs(environment(units, request)?.iter().map(|(key, value)| (key, value.expose_secret())));

    let uid = new_uid(units).map_err(|error| fault("cannot get a random number", &error))?;
    program.env(UNIT_ENV, uid.as_str());
    let created = units.context.clock.now();
    let marks = request.marks.clone();
    let mut record = Record { uid, version: 1, created, marks, leader: None, ending: None, exit: None };
    let aside = Home(units.aside(name));
    let made = aside.create(&record).and_then(|()| fs::rename(&aside.0, &home.0));
    made.map_err(|error| undo(&aside, fault(format!("cannot make {}", home.0.display()), &error)))?;

    let child = spawn(&mut program, &home).map_err(|error| undo(&home, error))?;
    let recorded =
        pid_of(&child).and_then(Leader::of_child).map_err(|error| fault("cannot read /proc", &error));
    let recorded = recorded.and_then(|leader| {
        record.leader = Some(leader);
        access.start(&home, &record);
        access.put(&home, &mut record)
    });
    recorded.map_err(|error| {
        access.cancel_start(&record.uid);
        abort(child);
        undo(&home, error)
    })
}

/// The unit of that name, if there is one; nothing of anybody else's is touched.
fn existing(units: &Units, access: &mut Access<'_>, home: &Home) -> Result<Option<Unit>> {
    let path = home.0.display();
    let wrong = |error: &io::Error| fault(format!("cannot read {path}"), error);
    match home.read().map_err(|error| wrong(&error))? {
        Some(mut record) if units.is_ours(&record) => access.settle(home, &mut record).map(Some),
        Some(record) => {
            let owner = &record.marks.instance;
            let text =
                format!("{path} belongs to instance `{owner}`; give each instance its own `dir` or name");
            Err(Error::invalid(text).with_cause(FailureCause::Config))
        }
        None if home.0.try_exists().map_err(|error| wrong(&error))? => {
            let text = format!("{path} is in the way and not ours; move it elsewhere");
            Err(Error::invalid(text).with_cause(FailureCause::Config))
        }
        None => Ok(None),
    }
}

/// The program with its arguments, in a process group of its own and without our environment.
fn program(command: &[String], request: &LaunchRequest) -> Result<Command> {
    let (path, first) = match command.split_first() {
        Some((program, first)) => (PathBuf::from(program), first),
        None => (own_program()?, command),
    };
    let mut program = Command::new(path);
    program.args(first).process_group(0).env_clear();
    program.args(request.enrolment.iter().flat_map(|enrolment| &enrolment.args));
    program.envs(INHERITED.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
    Ok(program)
}

/// The program that runs now; also if an upgrade replaced its file, which the kernel keeps until we end.
fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .map_err(|error| fault("cannot find the daemon's own program; set `command`", &error))?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

/// The label's environment and, above it, what the master handed out.
fn environment(units: &Units, request: &LaunchRequest) -> Result<BTreeMap<String, SecretString>> {
    let mut environment = BTreeMap::new();
    for (key, value) in &request.label.env {
        environment.insert(key.clone(), units.context.secrets.resolve(value)?);
    }
    if let Some(enrolment) = &request.enrolment {
        environment.extend(enrolment.env.iter().map(|(key, value)| (key.clone(), value.clone().into())));
        environment.extend(enrolment.secrets.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    match environment.keys().find(|key| key.is_empty() || key.contains(['=', '\0'])) {
        Some(key) => {
            let text = format!("`{}` is no name for an environment variable", key.escape_default());
            Err(Error::invalid(text).with_cause(FailureCause::Config))
        }
        None => Ok(environment),
    }
}

/// Unique over all time, and it tells whose it is.
fn new_uid(units: &Units) -> io::Result<Uid> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(Uid::from(format!("{}-{:016x}", units.scope, u64::from_ne_bytes(random))))
}

fn spawn(program: &mut Command, home: &Home) -> Result<Child> {
    let log =
        || home.log(OpenOptions::new().append(true)).map_err(|error| fault("cannot open the log", &error));
    program.current_dir(home.work()).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
    program.spawn().map_err(|error| spawn_fault(&program.get_program().to_string_lossy(), &error))
}

fn pid_of(child: &Child) -> io::Result<i32> {
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Ends a process that was started a moment ago. Nobody has waited for it, so its pid and the number of its
/// group are still its own.
fn abort(mut child: Child) {
    if let Some(group) = pid_of(&child).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// Removes what was made, so that an error means that there is no unit; if even that fails, it is found as a
/// remnant.
fn undo(home: &Home, error: Error) -> Error {
    let _ = fs::remove_dir_all(&home.0);
    error
}
