//! gzip, Zstandard or nothing, told apart by their first bytes: registries hold layers whose declared type is another.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::BlockDecodingStrategy;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// The largest window of a Zstandard frame: what `zstd --long` makes. It is memory of ours.
const WINDOW_MAX: u64 = 128 << 20;

const BUFFER: usize = 256 * 1024;

/// A reader of what the file unpacks to.
pub fn decoder(file: File) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    let start = file.fill_buf()?;
    let is_skippable = |b: &[u8]| matches!(b, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Frames::new(file)),
        other if is_skippable(other) => Box::new(Frames::new(file)),
        _ => Box::new(file),
    })
}

/// All frames of a Zstandard file, one after the other.
struct Frames {
    source: BufReader<File>,
    decoder: FrameDecoder,
    open: bool,
}

impl Frames {
    fn new(source: BufReader<File>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { source, decoder, open: false }
    }

    /// Opens the next frame; false at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(u64::from(length)), &mut io::sink())?;
                    if skipped != u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn broken(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its zstd data is broken: {error}"))
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.open {
                if !self.next()? {
                    return Ok(0);
                }
                self.open = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| broken(&error))?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            self.open = !self.decoder.is_finished();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn decoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let mut all = Vec::new();
        decoder(file)?.read_to_end(&mut all)?;
        Ok(all)
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_kinds_and_several_frames() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let twice = [content.clone(), content.clone()].concat();
        assert_eq!(decoded(&content).unwrap(), content);
        assert_eq!(decoded(b"").unwrap(), b"");
        assert_eq!(decoded(&gzip(&content)).unwrap(), content);
        assert_eq!(decoded(&[gzip(&content), gzip(&content)].concat()).unwrap(), twice);
        assert_eq!(decoded(&zstd(&content)).unwrap(), content);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let frames = [&skipped[..], &zstd(&content), &skipped[..], &zstd(&content)].concat();
        assert_eq!(decoded(&frames).unwrap(), twice);
    }

    #[test]
    fn broken_data_is_an_error() {
        let (packed, zipped) = (zstd(&[7; 10_000]), gzip(&[7; 10_000]));
        for bytes in [
            &packed[..packed.len() / 2],
            &zipped[..zipped.len() / 2],
            &[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff],
            &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff],
            // A window of a terabyte.
            &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00],
        ] {
            assert!(decoded(bytes).is_err(), "{bytes:.20?}");
        }
    }
}
