//! TCP calls: send, expect the banner line of who answers and the echo of what was sent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::target::{Scheme, Target};
use super::{Call, Reply};

const BANNER: &str = "hello from ";

pub(super) async fn exchange(target: &Target, call: &Call) -> Result<Reply> {
    let start = Instant::now();
    let mut session = TcpSession::open(target).await?;
    let message = if call.body.is_empty() {
        Bytes::from_static(b"ping\n")
    } else {
        call.body.clone()
    };
    let echo = session.exchange(&message).await?;
    Ok(Reply {
        body: echo,
        served_by: session.served_by,
        elapsed: start.elapsed(),
        ..Reply::default()
    })
}

/// An open TCP connection from a pod.
#[derive(Debug)]
pub struct TcpSession {
    stream: TcpStream,
    /// The pod at the other end, as soon as it has said who it is.
    pub served_by: Option<String>,
}

impl TcpSession {
    /// Connects; from a server that speaks first, waits for its banner.
    pub(super) async fn open(target: &Target) -> Result<Self> {
        let mut session = Self {
            stream: target.connect().await?,
            served_by: None,
        };
        if target.scheme == Scheme::TcpServerFirst {
            session.read_banner().await.context("no banner")?;
        }
        Ok(session)
    }

    /// Sends bytes and waits for their echo.
    pub async fn exchange(&mut self, message: &[u8]) -> Result<Bytes> {
        self.stream.write_all(message).await?;
        if self.served_by.is_none() {
            self.read_banner().await.context("no answer")?;
        }
        let mut echo = BytesMut::zeroed(message.len());
        self.stream.read_exact(&mut echo).await.context("no echo")?;
        ensure!(
            echo == message,
            "the echo is not what was sent: {}",
            String::from_utf8_lossy(&echo)
        );
        Ok(echo.freeze())
    }

    /// Waits until the other side closes or resets the connection; false if it stays open that long.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        let mut rest = [0; 256];
        let end = async { while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(time, end).await.is_ok()
    }

    async fn read_banner(&mut self) -> Result<()> {
        let mut line = String::new();
        loop {
            let byte = self.stream.read_u8().await?;
            if byte == b'\n' {
                break;
            }
            line.push(char::from(byte));
        }
        let pod = line
            .strip_prefix(BANNER)
            .with_context(|| format!("a strange banner: {line}"))?;
        self.served_by = Some(pod.to_owned());
        Ok(())
    }
}
