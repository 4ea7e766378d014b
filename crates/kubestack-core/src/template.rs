//! Templates: what a platform keeps of a label's unit for its own users to look at. Agents are launched from the config;
//! nothing depends on a template.

use crate::error::Result;
use crate::label::LabelSpec;
use crate::name::{LabelName, Uid};
use crate::time::Moment;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// One template on a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Template {
    /// What the platform calls it.
    pub name: String,
    /// Unique over all time.
    pub uid: Uid,
    /// Of this label.
    pub label: LabelName,
    /// Of this state of the label, see [`LabelSpec::template_hash`].
    pub hash: String,
    /// When it was made.
    pub created: Moment,
}

impl Template {
    /// Everything at once.
    pub fn new(name: String, uid: Uid, label: LabelName, hash: String, created: Moment) -> Self {
        Self { name, uid, label, hash, created }
    }
}

/// Keeps templates of one installation.
#[async_trait]
pub trait Templates: Send + Sync {
    /// All of this instance.
    async fn list(&self) -> Result<Vec<Template>>;

    /// Makes one of the label as it is now. It holds no secret. Idempotent: one that is there is returned.
    async fn create(&self, label: &LabelSpec) -> Result<Template>;

    /// Takes exactly that one away. Not found is success.
    async fn delete(&self, template: &Template) -> Result<()>;
}
