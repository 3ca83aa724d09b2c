//! Where the server listens.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use foreturn::{Error, ErrorKind};

/// An address of this machine, or a Unix socket.
///
/// ```
/// use foreturn_serve::Address;
///
/// assert!("127.0.0.1:8080".parse::<Address>()?.is_private());
/// assert!("unix:/run/foreturn.sock".parse::<Address>()?.is_private());
/// assert!(!"0.0.0.0:8080".parse::<Address>()?.is_private());
/// assert!("8080".parse::<Address>().is_err());
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Address and port. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a socket, which is made with mode 0600.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine reaches it.
    pub fn is_private(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
        found.map(Address::Tcp).ok_or_else(|| {
            let message = format!("{text:?} is not an address: write 127.0.0.1:8080, [::1]:8080, or unix:PATH");
            Error::new(ErrorKind::InvalidRequest, message)
        })
    }
}
