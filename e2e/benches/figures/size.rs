//! The memory of a proxy.

use std::time::Duration;

use anyhow::Result;
use servicefence_e2e::Proxy;

/// What Envoy has allocated. It frees what a request of the admin interface took a moment later: the least of
/// a few is its own.
pub(crate) async fn allocated(proxy: &Proxy) -> Result<u64> {
    let mut least = proxy.figures().await?.allocated_bytes;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        least = least.min(proxy.figures().await?.allocated_bytes);
    }
    Ok(least)
}
