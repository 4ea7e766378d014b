//! Free capacity, from the quotas of the namespace.

use crate::object::Quota;
use kubestack_core::prelude::*;
use kubestack_core::resources::Quantity;

/// What all quotas together leave: of each resource the least. A quota with scopes is about some pods only,
/// and which those are is not known here; so it is left out, and the server's refusal tells when it is full.
pub fn free(quotas: &[Quota]) -> Resources {
    let mut free = Resources::default();
    let whole =
        quotas.iter().filter(|quota| quota.spec.scopes.is_empty() && quota.spec.scope_selector.is_none());
    for quota in whole {
        for (key, hard) in &quota.status.hard {
            let used = quota.status.used.get(key).map_or("0", String::as_str);
            // A quantity that is not understood limits nothing here; the server knows better.
            let (Some(name), Ok(hard), Ok(used)) = (resource(key), hard.parse(), used.parse()) else {
                continue;
            };
            let left =
                Quantity::from_millis(Quantity::as_millis(hard).saturating_sub(Quantity::as_millis(used)));
            let least = free.0.entry(name.to_owned()).or_insert(left);
            *least = left.min(*least);
        }
    }
    free
}

/// What a key of a quota limits, in the words of a label; requests and limits of our agents are the same.
fn resource(key: &str) -> Option<&str> {
    match key {
        "cpu" | "memory" => Some(key),
        "pods" | "count/pods" => Some(Resources::AGENTS),
        _ => key.strip_prefix("requests.").or_else(|| key.strip_prefix("limits.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_each_resource_the_least_is_left() {
        let quotas: Vec<Quota> = serde_json::from_value(json!([
            {"status": {"hard": {"requests.cpu": "4", "limits.memory": "8Gi", "pods": "10", "secrets": "5"},
                        "used": {"requests.cpu": "1500m", "limits.memory": "9Gi", "pods": "3"}}},
            {"status": {"hard": {"cpu": "2", "count/pods": "20", "requests.nvidia.com/gpu": "1", "memory": "1e3"}}},
            {"spec": {"scopes": ["BestEffort"]}, "status": {"hard": {"pods": "0"}}},
        ]))
        .unwrap();
        let free: Vec<(String, String)> =
            free(&quotas).0.into_iter().map(|(name, amount)| (name, amount.to_string())).collect();
        let expected = [("agents", "7"), ("cpu", "2"), ("memory", "0"), ("nvidia.com/gpu", "1")];
        assert_eq!(free, expected.map(|(name, amount)| (name.to_owned(), amount.to_owned())));
        assert!(super::free(&[]).is_empty());
    }
}
