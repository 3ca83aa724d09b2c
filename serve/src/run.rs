//! Listening, connections, and the end.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use foreturn::config::Config;
use foreturn::runtime::Places;
use foreturn::{Engine, Error, ErrorKind, Result};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::address::Address;
use crate::app::App;
use crate::connection::Server;
use crate::keys::Keys;
use crate::tls::{self, TlsFiles};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen. An address that other machines reach needs `keys`.
    pub listen: Address,
    /// A file with the keys that callers may show, one on each line.
    pub keys: Option<PathBuf>,
    /// The files for TLS. Without them, requests and answers can be read on the way.
    pub tls: Option<TlsFiles>,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// How long requests under way may take once the server is told to end.
    pub grace: Duration,
    /// Whether each request is a line on standard error.
    pub logs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: Address::Tcp(([127, 0, 0, 1], 8080).into()),
            keys: None,
            tls: None,
            max_body: 16 << 20,
            grace: Duration::from_secs(30),
            logs: true,
        }
    }
}

/// The time for the engine to close after the grace, and for its last answers to be written.
const LAST: Duration = Duration::from_secs(5);

/// Serves `config`'s models until the process is told to end (SIGTERM or SIGINT), then for at most the grace.
///
/// # Errors
/// The configuration, the keys' file or the address can't be used. Nothing is loaded before the cheap ones are checked.
pub fn serve(config: Config, places: Places, options: Options) -> Result<()> {
    let keys = options.keys.as_deref().map(Keys::read).transpose()?;
    let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
    if keys.is_none() && !options.listen.is_private() {
        let message = format!(
            "{} is reached from other machines, and whoever reaches it can use the models: give a file of keys (--keys), \
             or listen on 127.0.0.1",
            options.listen
        );
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // They hand requests over; the engine's own threads compute.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Io, format!("the server's threads cannot be started: {e}")))?;
    let served = runtime.block_on(async {
        let listener = Listener::open(&options.listen).await?;
        let models = config.models.iter().map(|(name, model)| (name.clone(), model.clone())).collect();
        // Callers who connect now wait until the models are there.
        let engine = tokio::task::block_in_place(|| Engine::builder(config).places(places).build())?;
        let app = App::new(engine, models, keys, options.logs, options.max_body);
        let address = listener.address()?.to_string();
        let address = if tls.is_some() { address.replacen("http:", "https:", 1) } else { address };
        crate::say(&format!("foreturn listens on {address}"));
        run(listener, app, tls, &options).await
    });
    // What still blocks, such as a metric that waits for an endpoint, ends with the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf, Identity),
}

/// Device and inode of a file.
type Identity = (u64, u64);

fn identity(path: &Path) -> std::io::Result<Identity> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// A socket at `path` that only this user can open. It gets its name when it is closed to others.
fn socket(path: &Path) -> std::io::Result<Listener> {
    // A socket that a server left behind when it was killed. One that answers belongs to a server that lives, and what is
    // no socket at all stays, too.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && std::os::unix::net::UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let listener = UnixListener::bind(&hidden)?;
    let named = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::hard_link(&hidden, path))
        .and_then(|()| identity(path));
    std::fs::remove_file(&hidden)?;
    Ok(Listener::Unix(listener, path.to_owned(), named?))
}

impl Listener {
    async fn open(address: &Address) -> Result<Self> {
        let failed =
            |e: std::io::Error| Error::new(ErrorKind::Io, format!("cannot listen on {address}: {e}")).with_source(e);
        match address {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp).map_err(failed),
            Address::Unix(path) => socket(path).map_err(failed),
        }
    }

    fn address(&self) -> Result<Address> {
        match self {
            Listener::Tcp(listener) => {
                let address = listener.local_addr();
                address
                    .map(Address::Tcp)
                    .map_err(|e| Error::new(ErrorKind::Io, format!("the address of a socket: {e}")))
            }
            Listener::Unix(_, path, _) => Ok(Address::Unix(path.clone())),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another server may have taken the name.
        if let Listener::Unix(_, path, own) = self
            && identity(path).is_ok_and(|there| there == *own)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn run(listener: Listener, app: App, tls: Option<TlsAcceptor>, options: &Options) -> Result<()> {
    let (ending, engine) = (app.ending.clone(), app.engine.clone());
    let (router, graceful) = (app.router(), GracefulShutdown::new());
    let server = Server { router, tls, graceful };
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("signals cannot be heard: {e}"));
    let (mut term, mut int) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &server) => accepted,
            _ = term.recv() => break,
            _ = int.recv() => break,
        };
        if let Err(error) = accepted {
            // Mostly too many open files: connections that end will free some.
            crate::say(&format!("a connection was not accepted: {error}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    ending.store(true, Ordering::Release);
    engine.drain();
    drop(listener);
    crate::say(&format!("ending: requests under way have {} s", options.grace.as_secs_f64()));
    let mut served = std::pin::pin!(server.graceful.shutdown());
    let is_over = tokio::select! {
        () = &mut served => false,
        () = tokio::time::sleep(options.grace) => true,
        _ = term.recv() => true,
        _ = int.recv() => true,
    };
    if is_over {
        crate::say("the time is over: requests under way end");
    }
    let closing = tokio::task::spawn_blocking(move || engine.close());
    // The engine answers what is left, and the answers have to be written.
    let _ = tokio::time::timeout(LAST, closing).await;
    if is_over {
        let _ = tokio::time::timeout(LAST, served).await;
    }
    crate::log::flush();
    Ok(())
}

async fn accept(listener: &Listener, server: &Server) -> std::io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Answers are small and somebody waits for each.
            stream.set_nodelay(true)?;
            server.connect(stream);
        }
        Listener::Unix(listener, ..) => server.connect(listener.accept().await?.0),
    }
    Ok(())
}
