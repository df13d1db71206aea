//! Frames to the TAP, whole if it takes them.
//!
//! Where the TAP has no offload, or the kernel refuses a super-frame (Linux 6.1.103, 6.6.44 and 6.10.3 do), it is cut
//! into its segments here and their checksums are finished. A refusal is remembered for a while, not for ever.
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
    tap::{Tap, TapWriteError},
    workers::Shared,
};

/// Super-frames that are cut after a refusal before one is offered whole again.
const REFUSAL_PAUSE_FRAMES: u32 = 4096;

/// Writes frames and remembers what the kernel thinks of super-frames.
pub(crate) struct FrameWriter {
    /// Super-frames still to be cut.
    refusal_pause: u32,
    segment: Box<[u8]>,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self { refusal_pause: 0, segment: vec![0; MAX_FRAME_LEN].into() }
    }
}

impl FrameWriter {
    /// Writes a frame in the form that the TAP takes. The frame may be changed.
    pub(crate) fn write(&mut self, shared: &Shared, vnet: VnetHeader, frame: &mut [u8]) -> Result<(), TapWriteError> {
        let has_offload = shared.tap.offload().has_super_frames();
        let Some(request) = segmentation(vnet) else {
            return if has_offload {
                write(&shared.tap, vnet, frame)
            } else {
                write_finished(&shared.tap, vnet, frame)
            };
        };
        if has_offload && self.refusal_pause == 0 {
            match write(&shared.tap, vnet, frame) {
                Err(TapWriteError::GsoRefused) => self.refusal_pause = REFUSAL_PAUSE_FRAMES,
                outcome => return outcome,
            }
        }
        self.refusal_pause = self.refusal_pause.saturating_sub(1);
        shared.io_stats.tap_gso_refused.fetch_add(u64::from(has_offload), Relaxed);
        self.write_segments(&shared.tap, request, frame)
    }

    fn write_segments(&mut self, tap: &Tap, request: GsoRequest, frame: &[u8]) -> Result<(), TapWriteError> {
        let carver = Carver::new(request, frame, frame.len()).map_err(|_| TapWriteError::Refused)?;
        (0..carver.segment_count()).try_for_each(|at| {
            let (vnet, len) = carver
                .carve(&(at..at + 1), Checksums::Finished, frame, &mut self.segment)
                .map_err(|_| TapWriteError::Refused)?;
            write(tap, vnet, &self.segment[..len])
        })
    }
}

fn write(tap: &Tap, vnet: VnetHeader, frame: &[u8]) -> Result<(), TapWriteError> {
    tap.write_frame(&vnet.emit(), frame)
}

/// Writes a frame with its checksum finished, for a TAP without offload.
fn write_finished(tap: &Tap, vnet: VnetHeader, frame: &mut [u8]) -> Result<(), TapWriteError> {
    if vnet.needs_csum {
        checksum::finish(frame, vnet.csum_start, vnet.csum_offset).map_err(|_| TapWriteError::Refused)?;
    }
    write(tap, VnetHeader::default(), frame)
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
