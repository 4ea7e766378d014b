//! The systems that the engine talks to, as built plugins.

use kubestack_core::completion::CompletionSource;
use kubestack_core::demand::DemandSource;
use kubestack_core::master::CiMaster;
use kubestack_core::name::{MasterName, ProviderName, SourceName};
use kubestack_core::provider::SlaveProvider;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All of them, by name.
#[derive(Default)]
pub(crate) struct Systems {
    pub providers: BTreeMap<ProviderName, Arc<dyn SlaveProvider>>,
    pub masters: BTreeMap<MasterName, Arc<dyn CiMaster>>,
    pub demand: BTreeMap<SourceName, Box<dyn DemandSource>>,
    pub completion: BTreeMap<SourceName, Box<dyn CompletionSource>>,
}
