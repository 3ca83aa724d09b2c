//! `foreturn serve`.

use foreturn::config::Config;
use foreturn::{Error, ErrorKind, Result};
use foreturn_serve::Options;

use super::args::ServeArgs;
use super::models::places;

pub(super) fn serve(args: &ServeArgs) -> Result<()> {
    let config = Config::from_file(&args.config)?;
    let max_body = usize::try_from(args.max_body.0)
        .map_err(|_| Error::new(ErrorKind::InvalidRequest, "--max-body is more than this machine addresses"))?;
    let options = Options {
        listen: args.listen.clone(),
        keys: args.keys.clone(),
        max_body,
        grace: args.grace,
        logs: !args.quiet,
    };
    foreturn_serve::serve(config, places(), options)
}
