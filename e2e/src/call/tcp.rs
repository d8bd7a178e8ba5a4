//! TCP calls: send, expect the banner line of who answers and the echo of what was sent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::target::{Scheme, Target};
use super::{Call, Reply};

const BANNER: &str = "hello from ";

/// An open TCP connection from a pod.
#[derive(Debug)]
pub struct TcpSession {
    stream: TcpStream,
    /// The pod at the other end, as soon as it has said who it is.
    pub served_by: Option<String>,
}

impl TcpSession {
    /// One exchange, on the session there is or on a new one; after a failure there is none.
    pub(crate) async fn call(kept: &mut Option<Self>, target: &Target, call: &Call) -> Reply {
        let start = Instant::now();
        let mut reply = Reply {
            new_connection: kept.is_none(),
            ..Reply::default()
        };
        let message = if call.body.is_empty() {
            Bytes::from_static(b"ping\n")
        } else {
            call.body.clone()
        };
        let exchange = async {
            let mut session = match kept.take() {
                Some(session) => session,
                None => Self::open(target).await?,
            };
            let echo = session.exchange(&message).await?;
            Ok((session, echo))
        };
        let in_time = tokio::time::timeout(call.timeout, exchange).await;
        match in_time.unwrap_or_else(|_| Err(anyhow!("no answer in {:?}", call.timeout))) {
            Ok((session, echo)) => {
                reply.body = echo;
                reply.served_by.clone_from(&session.served_by);
                *kept = Some(session);
            }
            Err(error) => reply.error = Some(format!("{error:#}")),
        }
        reply.elapsed = start.elapsed();
        reply
    }

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
