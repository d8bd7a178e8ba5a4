//! TCP servers: a banner line says who answers, then everything is echoed.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Me;

fn banner(me: &Me) -> String {
    format!("hello from {}\n", me.pod)
}

/// Says nothing until the client has spoken.
pub(super) async fn client_first(me: Arc<Me>, mut stream: TcpStream) -> Result<()> {
    let mut first = vec![0; 4096];
    let count = stream.read(&mut first).await?;
    if count == 0 {
        return Ok(());
    }
    stream.write_all(banner(&me).as_bytes()).await?;
    stream.write_all(&first[..count]).await?;
    echo(stream).await
}

/// Speaks at once, as MySQL or SMTP do.
pub(super) async fn server_first(me: Arc<Me>, mut stream: TcpStream) -> Result<()> {
    stream.write_all(banner(&me).as_bytes()).await?;
    echo(stream).await
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}
