//! `foreturn serve`.

use foreturn::config::Config;
use foreturn::{Error, ErrorKind, Result};
use foreturn_serve::{Options, TlsFiles};

use super::args::ServeArgs;
use super::models::places;
use super::output;

pub(super) fn serve(args: &ServeArgs) -> Result<()> {
    if args.openapi {
        return output::json(&foreturn_serve::openapi());
    }
    let Some(config) = &args.config else { return Err(Error::new(ErrorKind::InvalidRequest, "--config is missing")) };
    let config = Config::from_file(config)?;
    let max_body = usize::try_from(args.max_body.0)
        .map_err(|_| Error::new(ErrorKind::InvalidRequest, "--max-body is more than this machine addresses"))?;
    let options = Options {
        listen: args.listen.clone(),
        keys: args.keys.clone(),
        tls: args
            .tls_certificate
            .clone()
            .zip(args.tls_key.clone())
            .map(|(certificate, key)| TlsFiles { certificate, key }),
        max_body,
        grace: args.grace,
        logs: !args.quiet,
    };
    foreturn_serve::serve(config, places(), options)
}
