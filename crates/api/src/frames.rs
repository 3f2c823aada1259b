//! Messages on a byte stream: a length of four bytes, little-endian, then JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message, in bytes; a longer one ends the connection.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection ended")]
    Closed,
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("a message of {0} bytes is longer than the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a message could not be understood")]
    Malformed(#[source] serde_json::Error),
}

pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&frame).await.map_err(FrameError::Io)?;
    to.flush().await.map_err(FrameError::Io)
}

/// The next message, or [`FrameError::Closed`] where the stream ends between two messages.
///
/// Not safe to cancel: a cancelled read may have taken half a message.
pub async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        Err(error) => return Err(FrameError::Io(error)),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    // Read through a limit instead of into a buffer of the claimed length, so that a lie costs no memory.
    let mut frame = Vec::new();
    let got = from.take(length as u64).read_to_end(&mut frame).await.map_err(FrameError::Io)?;
    if got < length {
        return Err(FrameError::Closed);
    }
    serde_json::from_slice(&frame).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_round_trip_and_bad_ones_are_refused() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        write(&mut a, &("hello", 7)).await.unwrap();
        assert_eq!(read::<(String, u32)>(&mut b).await.unwrap(), ("hello".to_owned(), 7));

        a.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        assert!(matches!(read::<u32>(&mut b).await, Err(FrameError::TooLong(_))));

        a.write_all(&[3, 0, 0, 0, b'{', b'{', b'{']).await.unwrap();
        assert!(matches!(read::<u32>(&mut b).await, Err(FrameError::Malformed(_))));

        a.write_all(&[9, 0, 0, 0, b'1']).await.unwrap();
        drop(a);
        assert!(matches!(read::<u32>(&mut b).await, Err(FrameError::Closed)));
        assert!(matches!(read::<u32>(&mut b).await, Err(FrameError::Closed)));
    }
}
