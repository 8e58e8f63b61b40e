use std::io::{self, BufReader, Read};

use super::*;

/// Text that compresses, noise that does not, and repeats long enough to fill every table.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match state >> 62 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            1 => bytes.extend_from_slice(&[0; 100]),
            _ => bytes.extend_from_slice(format!("line {}\n", state >> 50).as_bytes()),
        }
    }
    bytes.truncate(len);
    bytes
}

fn encode(codec: Codec, data: &[u8], piece: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(codec).unwrap();
    let mut encoded = Vec::new();
    for part in data.chunks(piece) {
        encoder.write(part).unwrap();
        encoded.extend(encoder.take());
    }
    encoded.extend(encoder.finish().unwrap());
    encoded
}

fn decode(codec: Codec, encoded: &[u8], capacity: usize) -> io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    decoder(codec, BufReader::with_capacity(capacity, encoded))?.read_to_end(&mut decoded)?;
    Ok(decoded)
}

#[test]
fn refuses_streams_that_are_cut_short() {
    let data = sample(100_000);
    for codec in Codec::ALL {
        // These have no end of their own: what is missing shows in the NAR.
        let has_end = !matches!(codec, Codec::Identity | Codec::Compress | Codec::Lz4);
        let encoded = encode(codec, &data, 10_000);
        for cut in [1, 2, 3, 5, 20, encoded.len() / 2, encoded.len() - 2, encoded.len() - 1] {
            match decode(codec, &encoded[..cut], 999) {
                Ok(_) if has_end => panic!("{codec:?} cut at {cut} passes for the whole"),
                Ok(decoded) => assert!(data.starts_with(&decoded), "{codec:?} cut at {cut}"),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn refuses_noise() {
    let noise: Vec<u8> = sample(3000).iter().rev().map(|byte| byte ^ 0xa5).collect();
    for codec in Codec::ALL.into_iter().filter(|&codec| codec != Codec::Identity) {
        assert!(decode(codec, &noise, 100).is_err(), "{codec:?}");
    }
}

#[test]
fn survives_flipped_bits() {
    let data = sample(20_000);
    for codec in Codec::ALL {
        let encoded = encode(codec, &data, 10_000);
        for at in (0..encoded.len()).step_by(37) {
            let mut damaged = encoded.clone();
            damaged[at] ^= 1 << (at % 8);
            // Bounded, because some damage makes a stream that never ends.
            let decoder = decoder(codec, damaged.as_slice());
            let _ = decoder.and_then(|decoder| io::copy(&mut decoder.take(1 << 22), &mut io::sink()));
        }
    }
}

#[test]
fn refuses_windows_that_are_too_large() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(MAX_ZSTD_WINDOW_LOG + 1).unwrap();
    io::copy(&mut sample(1000).as_slice(), &mut encoder).unwrap();
    assert!(decode(Codec::Zstd, &encoder.finish().unwrap(), 100).is_err());

    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(512 << 20);
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    io::copy(&mut sample(1000).as_slice(), &mut encoder).unwrap();
    assert!(decode(Codec::Lzma, &encoder.finish().unwrap(), 100).is_err());
}

#[test]
fn round_trips_whatever_the_pieces() {
    for len in [0, 1, 2, 255, 256, 257, 1000, 70_000, 1_000_000] {
        let data = sample(len);
        for codec in Codec::ALL {
            for (piece, capacity) in [(len.max(1), 64 << 10), (1021, 77)] {
                let encoded = encode(codec, &data, piece);
                assert!(decode(codec, &encoded, capacity).unwrap() == data, "{codec:?}, {len} bytes in {piece}s");
            }
        }
    }
}

#[test]
fn reads_concatenated_streams() {
    let data = sample(30_000);
    for codec in [Codec::Zstd, Codec::Xz, Codec::Bzip2, Codec::Gzip, Codec::Lz4, Codec::Lzip] {
        let mut encoded = encode(codec, &data[..10_000], 5000);
        encoded.extend(encode(codec, b"", 1));
        encoded.extend(encode(codec, &data[10_000..], 5000));
        assert!(decode(codec, &encoded, 333).unwrap() == data, "{codec:?}");
    }
}

#[test]
fn tells_compressions_apart() {
    let nar = [b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0".as_slice(), &sample(1000)].concat();
    for codec in Codec::ALL {
        let encoded = encode(codec, &nar, 100);
        match Codec::sniff(&encoded[..16]) {
            Ok(found) => assert_eq!(found, codec),
            Err(_) => assert_eq!(codec, Codec::Brotli),
        }
    }
    for (head, name) in
        [("LRZI\0", "lrzip"), ("begin 644 x", "uuencode"), ("", "unknown"), ("nix-archive-1", "unknown")]
    {
        assert_eq!(Codec::sniff(head.as_bytes()), Err(Unsupported(name.into())));
    }
}

#[test]
fn knows_names_and_extensions() {
    for codec in Codec::ALL {
        assert_eq!(Codec::from_name(codec.name()), Ok(codec));
    }
    assert_eq!(Codec::from_extension("zst"), Ok(Some(Codec::Zstd)));
    assert_eq!(Codec::from_extension(""), Ok(None));
    assert!(Codec::from_extension("lrz").is_err());
    assert!(Codec::from_name("lrzip").is_err());
    assert_eq!(Codec::from_content_encoding(" GZIP"), Ok(Codec::Gzip));
    assert!(Codec::from_content_encoding("deflate").is_err());
}

#[test]
fn refuses_headers_that_compress_never_writes() {
    for flags in [0x90 | 0x40, 0x88, 0x91] {
        assert!(decode(Codec::Compress, &[0x1f, 0x9d, flags, 0, 0], 10).is_err(), "{flags:x}");
    }
    // A first code above the bytes, and one that is not in the table yet.
    assert!(decode(Codec::Compress, &[0x1f, 0x9d, 0x90, 0xff, 0x01], 10).is_err());
    assert!(decode(Codec::Compress, &[0x1f, 0x9d, 0x90, 0x41, 0xfe, 0x03, 0x00], 10).is_err());
}
