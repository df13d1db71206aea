//! Frames to the TAP, whole if it takes them.
//!
//! Where the TAP has no offload, or the kernel refuses a super-frame (Linux 6.1.103, 6.6.44 and 6.10.3 do), it is cut
//! into its segments here and their checksums are finished. A refusal is remembered for a while, not for ever, and for TCP
//! and UDP apart: kernels before 6.2 take super-frames of TCP only.
//!
//! INVARIANT: no allocation per frame.

use std::sync::atomic::Ordering::Relaxed;

use weaved_core::{
    limits::MAX_FRAME_LEN,
    offload::{
        carve::{Carver, Checksums},
        checksum,
        superframe::{GsoRequest, Transport},
        vnet_hdr::{Gso, VnetHeader},
    },
};

use crate::{
    pause::Change,
    stats::IoStats,
    tap::{Refusals, TapQueue, TapWriteError, VNET_HEADER_LEN},
};

/// Writes frames in the form that the kernel takes.
pub(crate) struct FrameWriter {
    segment: Box<[u8]>,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self { segment: vec![0; MAX_FRAME_LEN].into() }
    }
}

/// Where frames are written to: a queue of a TAP, or a test's idea of one.
pub(crate) trait FrameSink {
    /// Whether super-frames and unfinished checksums may be offered.
    fn has_offload(&self) -> bool;

    /// What it has refused of them.
    fn refusals(&self) -> &Refusals;

    /// Takes one frame.
    fn write(&self, vnet: &[u8; VNET_HEADER_LEN], frame: &[u8]) -> Result<(), TapWriteError>;
}

impl FrameSink for TapQueue {
    fn has_offload(&self) -> bool {
        self.offload().has_super_frames()
    }

    fn refusals(&self) -> &Refusals {
        self.refusals()
    }

    fn write(&self, vnet: &[u8; VNET_HEADER_LEN], frame: &[u8]) -> Result<(), TapWriteError> {
        self.write_frame(vnet, frame)
    }
}

impl FrameWriter {
    /// Writes a frame in the form that the sink takes. The frame may be changed.
    pub(crate) fn write(
        &mut self,
        sink: &impl FrameSink,
        stats: &IoStats,
        vnet: VnetHeader,
        frame: &mut [u8],
    ) -> Result<(), TapWriteError> {
        let Some(request) = segmentation(vnet) else {
            return if sink.has_offload() {
                sink.write(&vnet.emit(), frame)
            } else {
                write_finished(sink, vnet, frame)
            };
        };
        if sink.has_offload() && sink.refusals().may_offer(request.transport) {
            match sink.write(&vnet.emit(), frame) {
                Err(TapWriteError::GsoRefused) => {
                    if sink.refusals().on_refused(request.transport) == Change::Entered {
                        stats.tap_gso_refused.fetch_add(1, Relaxed);
                    }
                }
                outcome => {
                    if outcome.is_ok() && sink.refusals().on_taken(request.transport) == Change::Left {
                        stats.tap_gso_returned.fetch_add(1, Relaxed);
                    }
                    return outcome;
                }
            }
        }
        stats.tap_segmented.fetch_add(1, Relaxed);
        self.write_segments(sink, request, frame)
    }

    fn write_segments(
        &mut self,
        sink: &impl FrameSink,
        request: GsoRequest,
        frame: &[u8],
    ) -> Result<(), TapWriteError> {
        let carver = Carver::new(request, frame, frame.len()).map_err(|_| TapWriteError::Refused)?;
        (0..carver.segment_count()).try_for_each(|at| {
            let (vnet, len) = carver
                .carve(&(at..at + 1), Checksums::Finished, frame, &mut self.segment)
                .map_err(|_| TapWriteError::Refused)?;
            sink.write(&vnet.emit(), &self.segment[..len])
        })
    }
}

/// Writes a frame with its checksum finished, for a TAP without offload.
fn write_finished(sink: &impl FrameSink, vnet: VnetHeader, frame: &mut [u8]) -> Result<(), TapWriteError> {
    if vnet.needs_csum {
        checksum::finish(frame, vnet.csum_start, vnet.csum_offset).map_err(|_| TapWriteError::Refused)?;
    }
    sink.write(&VnetHeader::default().emit(), frame)
}

/// How a super-frame is to be cut; none for an ordinary frame.
fn segmentation(vnet: VnetHeader) -> Option<GsoRequest> {
    let transport = match vnet.gso {
        Gso::None => return None,
        Gso::TcpV4 | Gso::TcpV6 => Transport::Tcp,
        Gso::UdpL4 => Transport::Udp,
    };
    Some(GsoRequest { transport, gso_size: vnet.gso_size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pause::PAUSE_TRIES;
    use std::cell::{Cell, RefCell};

    const PAYLOAD_LEN: usize = 2500;
    const GSO_SIZE: u16 = 1000;
    const HEADERS_LEN: usize = 14 + 20 + 8;

    /// A TAP of paper.
    #[derive(Default)]
    struct Paper {
        has_offload: bool,
        refusals: Refusals,
        refuses_super_frames: Cell<bool>,
        written: RefCell<Vec<(VnetHeader, Vec<u8>)>>,
    }

    impl FrameSink for Paper {
        fn has_offload(&self) -> bool {
            self.has_offload
        }

        fn refusals(&self) -> &Refusals {
            &self.refusals
        }

        fn write(&self, vnet: &[u8; VNET_HEADER_LEN], frame: &[u8]) -> Result<(), TapWriteError> {
            let vnet = VnetHeader::parse(vnet).unwrap();
            if vnet.gso != Gso::None && self.refuses_super_frames.get() {
                return Err(TapWriteError::GsoRefused);
            }
            self.written.borrow_mut().push((vnet, frame.to_vec()));
            Ok(())
        }
    }

    impl Paper {
        fn lens(&self) -> Vec<usize> {
            self.written.take().iter().map(|(_, frame)| frame.len()).collect()
        }
    }

    /// A UDP frame over IPv4 whose checksum is not finished.
    fn frame(payload_len: usize) -> (VnetHeader, Vec<u8>) {
        let mut frame = vec![0; HEADERS_LEN + payload_len];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(28 + payload_len as u16).to_be_bytes());
        frame[22..24].copy_from_slice(&[64, 17]);
        frame[26..34].copy_from_slice(&[10, 32, 0, 1, 10, 32, 0, 2]);
        frame[38..40].copy_from_slice(&(8 + payload_len as u16).to_be_bytes());
        let vnet = VnetHeader { needs_csum: true, csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
        (vnet, frame)
    }

    fn super_frame() -> (VnetHeader, Vec<u8>) {
        let (vnet, frame) = frame(PAYLOAD_LEN);
        let hdr_len = HEADERS_LEN as u16;
        (VnetHeader { gso: Gso::UdpL4, gso_size: GSO_SIZE, hdr_len, ..vnet }, frame)
    }

    fn write(writer: &mut FrameWriter, paper: &Paper, (vnet, mut frame): (VnetHeader, Vec<u8>)) {
        writer.write(paper, &IoStats::default(), vnet, &mut frame).unwrap();
    }

    #[test]
    fn with_offload_frames_are_written_as_they_are() {
        let paper = Paper { has_offload: true, ..Paper::default() };
        write(&mut FrameWriter::default(), &paper, super_frame());
        write(&mut FrameWriter::default(), &paper, frame(10));
        assert_eq!(paper.written.take(), vec![super_frame(), frame(10)]);
    }

    #[test]
    fn without_offload_super_frames_are_cut_and_checksums_finished() {
        let paper = Paper::default();
        write(&mut FrameWriter::default(), &paper, super_frame());
        write(&mut FrameWriter::default(), &paper, frame(10));
        let written = paper.written.take();
        for (vnet, frame) in &written {
            assert_eq!(*vnet, VnetHeader::default());
            assert_ne!(frame[40..42], [0, 0], "the checksum is there");
        }
        let lens: Vec<_> = written.iter().map(|(_, frame)| frame.len() - HEADERS_LEN).collect();
        assert_eq!(lens, [1000, 1000, 500, 10]);
    }

    #[test]
    fn a_refused_super_frame_is_cut_and_offering_is_tried_again_after_a_while() {
        let paper = Paper { has_offload: true, refuses_super_frames: true.into(), ..Paper::default() };
        let (mut writer, stats) = (FrameWriter::default(), IoStats::default());
        let mut write = || {
            let (vnet, mut frame) = super_frame();
            writer.write(&paper, &stats, vnet, &mut frame).unwrap();
            paper.lens()
        };
        assert_eq!(write().len(), 3);
        paper.refuses_super_frames.set(false);
        for _ in 0..PAUSE_TRIES {
            assert_eq!(write().len(), 3);
        }
        assert!(paper.refusals.may_offer(Transport::Tcp), "TCP has not been refused");
        assert_eq!(write(), [HEADERS_LEN + PAYLOAD_LEN]);
        let counted = [&stats.tap_gso_refused, &stats.tap_gso_returned, &stats.tap_segmented];
        assert_eq!(counted.map(|counter| counter.load(Relaxed)), [1, 1, u64::from(PAUSE_TRIES) + 1]);
    }
}
