//! Empty: `links` in the manifest needs a build script to exist.

fn main() {}
