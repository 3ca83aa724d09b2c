//! TLS by files: a certificate and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foreturn::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The files of a server that speaks TLS, both in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, then those that lead to one that callers trust.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What makes connections of TLS.
///
/// # Errors
/// A file can't be read, holds no such thing, or the two don't match.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let TlsFiles { certificate, key } = files;
    let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io("read", path, e));
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| refused(certificate, "is not PEM", e))?;
    if chain.is_empty() {
        let message =
            format!("{} has no certificate: PEM begins with -----BEGIN CERTIFICATE-----", certificate.display());
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            let message = format!("{} has no private key: PEM begins with -----BEGIN PRIVATE KEY-----", key.display());
            Error::new(ErrorKind::InvalidConfig, message)
        }
        e => refused(key, "is not PEM", e),
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("TLS: {e}")))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                let message =
                    format!("the certificate in {} is not that of the key in {}", certificate.display(), key.display());
                Error::new(ErrorKind::InvalidConfig, message).with_source(e)
            }
            e => refused(certificate, &format!("can't be used with {}", key.display()), e),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn refused(path: &Path, why: &str, e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{} {why}: {e}", path.display())).with_source(e)
}
