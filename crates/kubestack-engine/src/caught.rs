//! A plugin that panics fails that one call, and is called again.

use futures_util::FutureExt;
use kubestack_core::error::{Error, ErrorKind, Result};
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

/// The answer of a call that only reads; a panic in it is an error.
pub(crate) async fn read<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    caught(call, ErrorKind::Bug).await
}

/// The answer of a call with an effect; whether it had that before it panicked is not known.
pub(crate) async fn write<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    caught(call, ErrorKind::UnknownOutcome).await
}

async fn caught<T>(call: impl Future<Output = Result<T>>, kind: ErrorKind) -> Result<T> {
    // What the call has left half-done is the plugin's own affair: its next call may well panic again.
    let answer = AssertUnwindSafe(call).catch_unwind().await;
    answer.unwrap_or_else(|panic| {
        let text = format!("the plugin panicked, please report this defect: {}", words(&*panic));
        Err(Error::new(kind, text))
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}
