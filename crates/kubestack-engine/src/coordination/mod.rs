//! Who leads where no platform keeps it: on one host, or within one process.

mod directory;
mod local;
mod memory;

pub use directory::DirectoryLock;
pub use local::LocalCoordination;
pub use memory::MemoryCoordination;
