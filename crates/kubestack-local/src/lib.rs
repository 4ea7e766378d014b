//! Agents as processes of this host (Linux 5.4 or newer): the provider type `local`.
//!
//! ```text
//!  launch ──► <dir>/<agent>/            one directory per unit, 0700
//!               unit.json               all that must be known after a restart, replaced atomically
//!               work/                   the agent's working directory
//!               log                     what the agent writes
//!             + a process group         env KUBESTACK_LOCAL_UNIT=<uid> in every process of the unit
//!  watch  ◄── directory + /proc         looked at again and again; nothing is believed from memory
//! ```
//!
//! **What belongs to a unit**: its first process (pid, start time and boot id are recorded, so a pid that
//! was used again is never mistaken for it), the processes of that one's group, whatever carries the unit's
//! uid in its environment, and all their descendants. Only these are ever signalled, each through a pidfd
//! that was checked after it was opened. A process that cleared its environment, left the group *and* lost
//! its parents cannot be told from a stranger, and is left alone.
//!
//! **When the first process ends**, the rest of the unit is ended too, as with a container; only then is
//! the unit told as ended. Held units are left alone.
//!
//! **No supervisor process** stands between daemon and agent. It would know the exit status even if the
//! agent ended while no daemon ran, but every program that embeds this crate would have to be able to run
//! as one. So such an end has an unknown status, and what became of the job is the master's to tell. The
//! processes survive the daemon in any case: nothing ties them to it. (Under systemd the service needs
//! `KillMode=process`, or systemd itself ends them with the daemon.)
//!
//! What this crate deliberately does not know: any CI system, what the agent does, images, and limits of
//! cpu or memory: `resources` of a label are counted by the planner, not enforced here.

mod config;
mod disk;
mod fault;
mod launch;
mod process;
mod provider;
mod tend;
mod units;
mod watch;

pub use config::LocalConfig;
pub use provider::LocalProvider;

/// The environment variable that every process of a unit carries; its value is the unit's uid.
pub const UNIT_ENV: &str = "KUBESTACK_LOCAL_UNIT";
