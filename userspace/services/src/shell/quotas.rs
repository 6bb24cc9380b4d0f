//! Asks the master for quotas while something waits: they explain why.

use std::time::Duration;

use plenum_sdk::operator::{Call, Operator, call};
use tokio::sync::{mpsc, watch};

use crate::core::Event;
use crate::core::quota::Quotas;

/// Most of what waits has its offer sooner, and nobody needs to explain anything.
const FIRST: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_secs(2);

/// Until nobody listens. What could not be asked is asked again; what was known stays known.
pub(super) async fn follow(master: Operator, mut hungry: watch::Receiver<bool>, to: mpsc::Sender<Event>) {
    let mut known = Quotas::new();
    loop {
        if hungry.wait_for(|hungry| *hungry).await.is_err() {
            return;
        }
        tokio::time::sleep(FIRST).await;
        while *hungry.borrow() {
            match ask(&master).await {
                Ok(quotas) if quotas != known => {
                    known.clone_from(&quotas);
                    if to.send(Event::Quotas(quotas)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the master does not tell quotas"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

async fn ask(master: &Operator) -> Result<Quotas, plenum_sdk::CallError> {
    let call = Call { r#type: Some(call::Type::GetQuota as i32), ..Default::default() };
    let answer = master.call(&call).await?;
    let status = answer.and_then(|answer| answer.get_quota).map(|got| got.status).unwrap_or_default();
    let limits = |limits: std::collections::BTreeMap<String, plenum_api::mesos::value::Scalar>| {
        limits.into_iter().map(|(name, limit)| (name, limit.value)).collect()
    };
    Ok(status.configs.into_iter().map(|config| (config.role, limits(config.limits))).collect())
}
