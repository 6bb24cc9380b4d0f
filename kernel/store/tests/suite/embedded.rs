//! The embedded store.

use std::sync::Arc;

use plenum_store::Embedded;

use crate::contract::{self, Shared, cases};

macro_rules! contract {
    ($($case:ident),*) => {
        mod contract_on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::contract::$case(super::fresh().await).await;
            })*
        }
    };
}
cases!(contract);

async fn fresh() -> Shared {
    Arc::new(Embedded::open_in_memory().await.unwrap())
}
