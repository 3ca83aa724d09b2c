//! Connections: TLS, HTTP, and callers who don't read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;

/// A connection whose headers take longer than this is closed.
const HEADERS: Duration = Duration::from_secs(30);
/// The time for a caller to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is read ahead of a connection, at most, and so the most that a request's headers may take. Hyper's own bound is
/// 408 KiB, which a thousand slow callers would hold each.
const BUFFER: usize = 64 * 1024;
/// A connection that takes nothing of an answer for so long is closed, because it holds the answer.
const WRITES: Duration = Duration::from_secs(60);

/// What a connection needs.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) graceful: GracefulShutdown,
}

impl Server {
    /// Serves a connection on a task of its own.
    pub(crate) fn connect(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (router, watcher) = (self.router.clone(), self.graceful.watcher());
        let stream = Patient::new(stream);
        let Some(tls) = self.tls.clone() else {
            tokio::spawn(serve(stream, router, watcher));
            return;
        };
        tokio::spawn(async move {
            // A caller that speaks no TLS, or does not trust the certificate, is answered by a closed connection.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                serve(stream, router, watcher).await;
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, watcher: Watcher) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(BUFFER);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A caller that hung up, or spoke no HTTP, is answered by a closed connection.
    let _ = watcher.watch(connection).await;
}

/// A stream whose writes fail once nothing was taken for a while.
struct Patient<S> {
    stream: S,
    /// When patience ends; `None` unless a write waits.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Patient { stream, end: None }
    }

    /// The result of a write, or a failure if it has waited too long.
    fn bound<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.end = None;
            return result;
        }
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(WRITES)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bound(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bound(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_let_go_and_who_reads_slowly_is_not() {
        let (mut reader, writer) = duplex(16);
        let mut writer = Patient::new(writer);
        let slow = tokio::spawn(async move {
            let mut read = [0; 8];
            for _ in 0..10 {
                sleep(WRITES / 2).await;
                reader.read_exact(&mut read).await.unwrap();
            }
            reader
        });
        writer.write_all(&[0; 80]).await.unwrap();
        let _reader = slow.await.unwrap();
        writer.write_all(&[0; 16]).await.unwrap();
        let start = Instant::now();
        let error = writer.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), WRITES);
    }
}
