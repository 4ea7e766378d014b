//! A binary with two plugins of one name, as when a third party chose a name that is taken.

use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_engine::config::Config;

fn nothing<T: ?Sized>(_: &BuildContext, _: &Fragment) -> Result<Box<T>> {
    Err(Error::invalid("only a name"))
}

macro_rules! double {
    ($kind:expr) => {
        inventory::submit! {
            Plugin { type_name: "twice", summary: "", schema: || schemars::schema_for!(()), example: "", build: $kind }
        }
    };
}

double!(Build::Master(nothing));
double!(Build::Master(nothing));
double!(Build::Provider(nothing));

#[test]
fn two_plugins_of_one_name_are_refused() {
    let text =
        "masters: [{name: m, type: twice}]\nproviders: [{name: p, type: twice}]\nlabels: [{name: a}]\n";
    let problems = Config::parse(text, "c.yaml").map(|_| ()).unwrap_err().0;
    assert_eq!(problems, ["two master plugins are called `twice`; rename one of them"]);
}
