//! The `kubestack` program. Everything is in the library, so that others can build their own.

fn main() -> std::process::ExitCode {
    kubestack::main()
}
