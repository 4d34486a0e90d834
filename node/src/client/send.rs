//! `heliograph send`.

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::Context as _;
use heliograph_api::client::{ClientError, Letter, Receipt, send_until_accepted};
use heliograph_cluster::model::{CONTENT_BYTES_MAX, DeviceId, MessageId};
use tokio::time::Instant;

use super::{
    block_on, output, remote,
    session::{Session, is_unauthenticated},
};
use crate::{
    cli::SendArgs,
    exit::{Failure, OrExit as _, Reason},
};

/// Content that is not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum ContentError {
    /// There is too much.
    #[error("a message holds at most {CONTENT_BYTES_MAX} bytes")]
    TooLarge,
}

/// Runs the command.
pub(crate) fn run(args: &SendArgs) -> Result<(), Failure> {
    let letter = letter(args)?;
    block_on(async {
        let mut session = Session::open(&args.gateway).await?;
        let deadline = Instant::now() + args.timeout;
        let receipt = match send_until_accepted(&session.clients, &letter, deadline).await {
            Err(error) if is_unauthenticated(&error) => {
                session.register().await?;
                send_until_accepted(&session.clients, &letter, deadline).await
            }
            outcome => outcome,
        };
        print(args, &session, &letter, receipt)
    })
}

fn print(
    args: &SendArgs,
    session: &Session,
    letter: &Letter,
    receipt: Result<Receipt, ClientError>,
) -> Result<(), Failure> {
    let receipt = receipt.map_err(|error| remote(&session.clients, error))?;
    output::sent(args.gateway.output, letter, &receipt).context("cannot write the answer")?;
    Ok(())
}

fn letter(args: &SendArgs) -> Result<Letter, Failure> {
    let recipient = DeviceId::new(&args.to)
        .with_context(|| format!("--to {:?}", args.to))
        .or_exit(Reason::Configuration)?;
    let mut letter = Letter::new(recipient, content(args)?);
    letter.priority = args.priority.into();
    letter.ttl = args.ttl;
    if let Some(id) = &args.message_id {
        letter.message_id = MessageId::new(id)
            .with_context(|| format!("--message-id {id:?}"))
            .or_exit(Reason::Configuration)?;
    }
    Ok(letter)
}

fn content(args: &SendArgs) -> Result<Vec<u8>, Failure> {
    let read = match (&args.text, &args.file) {
        (Some(text), _) => bounded(text.as_bytes()),
        (None, Some(path)) => File::open(path)
            .with_context(|| format!("--file: cannot open {}", path.display()))
            .and_then(bounded),
        (None, None) => bounded(io::stdin().lock()),
    };
    read.or_exit(Reason::Configuration)
}

/// Reads no more than a message can hold.
fn bounded(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(CONTENT_BYTES_MAX).unwrap_or(u64::MAX);
    from.take(limit + 1).read_to_end(&mut content).context("cannot read the content")?;
    if content.len() > CONTENT_BYTES_MAX {
        return Err(ContentError::TooLarge.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_read_up_to_what_a_message_holds() {
        assert_eq!(bounded(&b"hello"[..]).unwrap(), b"hello");
        let most = vec![7; CONTENT_BYTES_MAX];
        assert_eq!(bounded(&most[..]).unwrap(), most);
        let error = bounded(io::repeat(7)).unwrap_err();
        assert_eq!(error.to_string(), "a message holds at most 61440 bytes");
    }
}
