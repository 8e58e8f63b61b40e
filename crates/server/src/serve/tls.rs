//! TLS: the certificate and key, read at the start and again when told to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig as RustlsConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ServeError;
use crate::config::ServerConfig;

/// What connections are encrypted with; replaced as a whole.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads the files that the configuration names; `None` if it names none.
    pub fn from_config(config: &ServerConfig) -> Result<Option<Self>, ServeError> {
        let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let current = RwLock::new(load(cert, key)?);
        Ok(Some(Self { cert: cert.clone(), key: key.clone(), current }))
    }

    /// Reads the files again; when they are no good, the earlier ones stay in use. Open connections are not touched.
    pub fn reload(&self) -> Result<(), ServeError> {
        let next = load(&self.cert, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Returns what new connections are encrypted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads a certificate chain and its key, both PEM, and checks that they belong together.
pub fn load(cert: &Path, key: &Path) -> Result<TlsAcceptor, ServeError> {
    let fail = |path: &Path, detail: String| ServeError::Tls { path: path.to_owned(), detail };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(|items| items.collect::<Result<Vec<_>, _>>())
        .map_err(|error| fail(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(fail(cert, "it holds no certificate (PEM, 'BEGIN CERTIFICATE')".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, error.to_string()))?;
    let mut config = RustlsConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| fail(key, format!("{error} (with the certificate {})", cert.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
