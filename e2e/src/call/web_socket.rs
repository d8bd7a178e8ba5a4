//! WebSocket calls: upgrade, hear who answers, send one message, expect its echo.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::target::Target;
use super::{Call, Reply};

pub(super) async fn exchange(target: &Target, call: &Call) -> Result<Reply> {
    let start = Instant::now();
    let mut request = format!("ws://{}{}", target.authority, target.path).into_client_request()?;
    for (name, value) in &call.headers {
        request.headers_mut().insert(name, value.clone());
    }
    if !call.headers.contains_key(header::HOST) {
        request
            .headers_mut()
            .insert(header::HOST, HeaderValue::try_from(&target.authority)?);
    }
    let stream = target.connect().await?;
    let (mut socket, response) = match tokio_tungstenite::client_async(request, stream).await {
        Ok(upgraded) => upgraded,
        Err(Error::Http(refused)) => {
            return Ok(Reply {
                status: Some(refused.status().as_u16()),
                elapsed: start.elapsed(),
                ..Reply::default()
            });
        }
        Err(error) => return Err(error).context("no upgrade"),
    };
    let greeting = socket
        .next()
        .await
        .context("closed before the greeting")??
        .into_text()?;
    let message = if call.body.is_empty() {
        "ping".to_owned()
    } else {
        String::from_utf8(call.body.to_vec())?
    };
    socket.send(Message::text(message.clone())).await?;
    let echo = socket
        .next()
        .await
        .context("closed before the echo")??
        .into_text()?;
    ensure!(echo.as_str() == message, "the echo is not what was sent: {echo}");
    socket.close(None).await.context("cannot close")?;
    Ok(Reply {
        status: Some(response.status().as_u16()),
        version: Some(response.version()),
        headers: response.headers().clone(),
        body: Bytes::from(message),
        served_by: greeting.strip_prefix("hello from ").map(str::to_owned),
        elapsed: start.elapsed(),
        ..Reply::default()
    })
}
