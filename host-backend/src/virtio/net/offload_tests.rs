//! Tests of checksums and cuts, with packets that are right and with any.

use super::*;
use proptest::prelude::*;

const PAYLOAD: usize = 14 + 20 + 20;

/// A TCP packet over IPv4 with the sum of the pseudo header in the checksum field.
fn packet(payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + len).to_be_bytes());
    frame.extend([0xff, 0xff, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([1, 2, 3, 4, 0xff, 0xff, 0xff, 0xf0, 5, 6, 7, 8, 0x50, 0x99, 1, 0]);
    let pseudo = fold(sum(&[10, 0, 0, 1, 10, 0, 0, 2]) + u64::from(TCP) + u64::from(len));
    frame.extend(pseudo.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn header(size: u16) -> Header {
    Header {
        flags: HDR_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        gso_size: size,
        csum_start: 34,
        csum_offset: 16,
        ..Header::default()
    }
}

fn segments(header: &Header, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cut = Cut::new(header, frame)?;
    let mut all = Vec::new();
    let mut one = Vec::new();
    while cut.write_next(frame, &mut one) {
        all.push(std::mem::take(&mut one));
        cut.advance();
    }
    Some(all)
}

#[test]
fn a_completed_checksum_makes_the_sum_over_the_packet_zero() {
    let mut frame = packet(b"odd");
    assert!(complete(&header(0), &mut frame));
    let pseudo = sum(&frame[26..34]) + u64::from(TCP) + (frame.len() - 34) as u64;
    assert_eq!(fold(pseudo + sum(&frame[34..])), 0xffff);
}

#[test]
fn a_checksum_that_leaves_the_frame_is_refused() {
    for (csum_start, csum_offset) in [(57, 0), (56, 0), (0xffff, 0xffff), (0, 56)] {
        assert!(!complete(&Header { csum_start, csum_offset, ..header(0) }, &mut packet(b"odd")));
    }
}

#[test]
fn segments_have_their_own_lengths_numbers_flags_and_checksums() {
    let payload: Vec<u8> = (0..250).collect();
    let all = segments(&header(100), &packet(&payload)).unwrap();
    assert_eq!(all.iter().map(|segment| segment.len() - PAYLOAD).collect::<Vec<_>>(), [100, 100, 50]);
    for (n, segment) in all.iter().enumerate() {
        assert_eq!(segment[PAYLOAD..], payload[n * 100..250.min(n * 100 + 100)]);
        assert_eq!(usize::from(get16(segment, 16).unwrap()), segment.len() - 14);
        assert_eq!(get16(segment, 18), Some([0xffff, 0, 1][n]), "identification wraps");
        assert_eq!(
            segment[38..42],
            0xffff_fff0_u32.wrapping_add(n as u32 * 100).to_be_bytes(),
            "so do sequence numbers"
        );
        // Of CWR, ACK, PSH and FIN: CWR in the first, PSH and FIN in the last.
        assert_eq!(segment[47], [0x90, 0x10, 0x19][n]);
        assert_eq!(fold(sum(&segment[14..34])), 0xffff);
        let pseudo = sum(&segment[26..34]) + u64::from(TCP) + (segment.len() - 34) as u64;
        assert_eq!(fold(pseudo + sum(&segment[34..])), 0xffff);
    }
}

#[test]
fn what_does_not_agree_is_not_cut() {
    let good = packet(&[7; 300]);
    assert!(Cut::new(&header(100), &good).is_some());
    for wrong in [
        Header { gso_size: 0, ..header(100) },
        Header { flags: 0, ..header(100) },
        Header { csum_start: 33, ..header(100) },
        Header { gso_type: GSO_TCPV6, ..header(100) },
        Header { gso_type: GSO_UDP_L4, ..header(100) },
        Header { gso_type: 0x7f, ..header(100) },
    ] {
        assert!(Cut::new(&wrong, &good).is_none(), "{wrong:?}");
    }
    for (at, byte) in [(14, 0x44), (14, 0x55), (23, UDP), (46, 0x40), (46, 0xf0), (12, 0x86)] {
        let mut bad = packet(&[7; 3]);
        bad[at] = byte;
        assert!(Cut::new(&header(100), &bad).is_none(), "{byte:#x} at {at}");
    }
    assert!(Cut::new(&header(1), &packet(&[7; SEGMENTS_MAX + 1])).is_none(), "too many segments");
}

proptest! {
    #[test]
    fn any_bytes_are_cut_or_refused(
        mut frame in prop::collection::vec(any::<u8>(), 0..400),
        sound in any::<bool>(),
        fields in any::<(u8, u8, u16, u16, u16)>(),
    ) {
        let (flags, gso_type, gso_size, csum_start, csum_offset) = fields;
        let header = if sound {
            let start = packet(&[]);
            let len = start.len().min(frame.len());
            frame[..len].copy_from_slice(&start[..len]);
            header(gso_size)
        } else {
            Header { flags, gso_type, gso_size, csum_start, csum_offset, ..Header::default() }
        };
        if let Some(all) = segments(&header, &frame) {
            let payload: usize = all.iter().map(|segment| segment.len() - PAYLOAD).sum();
            prop_assert!(!sound || payload == frame.len() - PAYLOAD);
        }
        complete(&header, &mut frame);
    }
}
