//! Why something was not forwarded: one reason, one counter, one sentence.
//!
//! INVARIANT: nothing is dropped in silence. A drop anywhere in the data plane counts exactly one of these.

/// Makes the enum, the list of all reasons, their stable names and their sentences from one table.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $help:literal;)*) => {
        /// Why a frame or a datagram went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason { $(#[doc = $help] $variant,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable name of the counter.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for the operator.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    FrameTooShort "drop_frame_too_short" "Frames shorter than an Ethernet header, from a container.";
    FrameTooLong "drop_frame_too_long" "Frames longer than any train carries, from a container.";
    FrameMalformed "drop_frame_malformed" "Frames whose headers contradict their offload request.";
    SourceGroup "drop_source_group" "Frames whose source is a broadcast or multicast address.";
    Hairpin "drop_hairpin" "Frames for a container of this host that the bridge offered to the overlay as well.";
    NoSession "drop_no_session" "Frames for a container whose host is not connected.";
    BumLimited "drop_bum_limited" "Broadcast, unknown and multicast frames above the rate limit.";
    SessionExhausted "drop_session_exhausted" "Frames that met a session at the end of its nonces.";
    SourceMismatch "drop_source_mismatch" "Frames from a peer or a container with the address of a container that runs elsewhere.";
    DatagramMalformed "drop_datagram_malformed" "Datagrams that are no message of this protocol.";
    OtherVersion "drop_other_version" "Datagrams of another protocol version.";
    UnknownSession "drop_unknown_session" "Sealed datagrams for a session that does not exist (any more).";
    Quarantined "drop_quarantined" "Frames from or to a peer whose containers' addresses collide with others'.";
    Forged "drop_forged" "Sealed datagrams that failed authentication.";
    Replayed "drop_replayed" "Sealed datagrams that had been received before.";
    TooOld "drop_too_old" "Sealed datagrams too far behind to tell whether they are replays.";
    TrainInconsistent "drop_train_inconsistent" "Trains whose authentic chunks contradict each other.";
    TrainIncomplete "drop_train_incomplete" "Trains given up because chunks were lost; their complete frames were delivered.";
    TrainsUndelivered "drop_trains_undelivered" "Sealed datagrams that found all buffers for trains full of what had not been taken out.";
    MarkedNotCapable "drop_marked_not_capable" "Frames that cannot carry a congestion mark and came in datagrams that had one (RFC 6040).";
    RecordMalformed "drop_record_malformed" "Authentic records that cannot be delivered as a frame.";
    HandshakeStranger "drop_handshake_stranger" "Initiations from somebody who does not know the cluster secret.";
    HandshakeNotFresh "drop_handshake_not_fresh" "Initiations that do not prove to be fresh, like replays and first contacts; answered by a challenge where the rate allows.";
    HandshakeInvalid "drop_handshake_invalid" "Handshake messages that are malformed, forged or belong to no handshake of ours.";
    RouterBusy "drop_router_busy" "Messages for the slow path that found its queue full.";
    ControlNoSession "drop_control_no_session" "Control bytes for a peer that is not connected.";
    NeighbourGone "drop_neighbour_gone" "ARP and ND questions about a container that was gone before they were answered.";
    MacTableFull "drop_mac_table_full" "Addresses not learned because the table is full, or the part of it that one host may fill.";
    PeerTableFull "drop_peer_table_full" "Peers not accepted because the table is full.";
    RelayUnsupported "drop_relay_unsupported" "Datagrams to be relayed, which this version does not do.";
    UnderlayUnreachable "drop_underlay_unreachable" "Datagrams that the kernel could not route.";
    UnderlayFull "drop_underlay_full" "Datagrams that found the socket buffer full.";
    UnderlayTooBig "drop_underlay_too_big" "Datagrams larger than the path takes; the path MTU is lowered.";
    UdpOverflow "drop_udp_overflow" "Packets lost because they came faster than they were read; each is a datagram or a part of a train.";
    UnfairShare "drop_unfair_share" "Frames from other hosts left out because more came than could be carried and their source had had its share.";
    TapRefused "drop_tap_refused" "Frames that the TAP device did not take.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_a_sentence() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at, "the enum is the index of its counter");
            assert!(reason.help().ends_with('.') && reason.name().starts_with("drop_"));
        }
    }
}
