//! What becomes of a train that has lost a chunk, and when.

use super::*;

#[test]
fn a_lost_chunk_holds_up_nothing_and_a_late_one_brings_what_it_held() {
    let mut assembler = Assembler::new();
    let (spec, train) = bulk_train(100);
    let len = train[0].1.len();
    let headers = spec.superframe().len() - spec.payload.len() + RECORD_HEADER_LEN;
    let hole = (2 * len - headers, 3 * len - headers);
    receive_all(&mut assembler, train[..2].iter().chain(&train[3..5]));
    assert_eq!(assembler.waiting(), Waiting::ToDeliver);
    let there = [(0, hole.0), (hole.1, 5 * len - headers)];
    assert_eq!(pieces(&spec, on_empty_socket(&mut assembler)), there);
    assert_eq!(assembler.waiting(), Waiting::ForLateChunks);
    let mut rest = receive_all(&mut assembler, &train[5..]);
    rest.extend(on_empty_socket(&mut assembler));
    assert_eq!(pieces(&spec, rest), [(5 * len - headers, 9000)]);
    assert_eq!(pieces(&spec, receive(&mut assembler, &train[2]).unwrap()), [hole]);
    assert_eq!((assembler.waiting(), assembler.take_losses()), (Waiting::ForNothing, Losses::default()));
}

#[test]
fn what_is_there_of_a_torn_train_comes_before_a_younger_one_of_its_lane() {
    let mut assembler = Assembler::new();
    let (spec, mut torn) = bulk_train(100);
    torn.pop();
    assert_eq!(receive_all(&mut assembler, &torn), []);
    let mut other_lane = control_train(2000, 500);
    other_lane.iter_mut().for_each(|(header, _)| header.lane = Lane(2));
    assert_eq!(receive_all(&mut assembler, &other_lane).len(), 1, "another lane says nothing");
    let mut got = receive_all(&mut assembler, &control_train(2000, 200));
    assert_eq!(got.pop(), Some(Got::Control(vec![200; 2000])));
    assert_eq!(pieces(&spec, got).len(), 1);
    let (spec, torn) = bulk_train(300);
    assert_eq!(receive_all(&mut assembler, &torn[1..]), []);
    let mut got = receive_all(&mut assembler, &control_train(10, 400));
    assert_eq!(got.pop(), Some(Got::Control(vec![144; 10])), "one of a single chunk, too");
    assert_eq!(pieces(&spec, got), [], "without its headers nothing is saved");
    assert_eq!(pieces(&spec, receive(&mut assembler, &torn[0]).unwrap()), [(0, 9000)], "until they come");
}

#[test]
fn a_train_that_comes_slowly_is_delivered_as_it_comes() {
    let mut assembler = Assembler::new();
    let (spec, train) = bulk_train(100);
    assert_eq!(receive_all(&mut assembler, &train[..2]), []);
    let waits = (0..20).take_while(|_| on_empty_socket(&mut assembler).is_empty()).count();
    assert_eq!(waits, 7, "a train that is met half way a few times stays in one piece");
    let mut got = receive_all(&mut assembler, &train[2..4]);
    let _ = assembler.deliver_partial();
    got.extend(poll_all(&mut assembler));
    assert_eq!(pieces(&spec, got).len(), 1, "after a moment of silence");
    assert_eq!(receive_all(&mut assembler, &train[4..]).len(), 1);
}

#[test]
fn on_a_lossy_lane_super_frames_come_in_pairs_of_segments() {
    let mut assembler = Assembler::new();
    for counter in (0..5000).filter(|counter| counter % 100 != 7) {
        assert_eq!(receive_all(&mut assembler, &control_train(10, counter)).len(), 1);
    }
    let (spec, train) = bulk_train(5000);
    let pairs = [(0, 2800), (2800, 5600), (5600, 8400), (8400, 9000)];
    assert_eq!(pieces(&spec, receive_all(&mut assembler, &train)), pairs);
}

#[test]
fn on_a_path_that_reorders_a_hole_is_waited_for() {
    let mut assembler = Assembler::new();
    let (_, train) = bulk_train(100);
    let order = [0, 2, 3, 4, 1, 5, 6];
    let got: Vec<Got> = order
        .iter()
        .flat_map(|at| {
            let mut got = receive(&mut assembler, &train[*at]).unwrap();
            got.extend(on_empty_socket(&mut assembler));
            got
        })
        .collect();
    assert!(got.len() > 1, "the first time nobody knows");
    let (_, train) = bulk_train(200);
    assert_eq!(receive_all(&mut assembler, order[..4].iter().map(|at| &train[*at])), []);
    assert_eq!(on_empty_socket(&mut assembler), []);
    assert_eq!(assembler.waiting(), Waiting::ToDeliverLate);
    assert_eq!(receive_all(&mut assembler, order[4..].iter().map(|at| &train[*at])).len(), 1, "in one piece");
}

#[test]
fn a_train_of_the_lane_that_is_much_later_ends_the_wait() {
    let mut assembler = Assembler::new();
    let mut torn = control_train(10, 100);
    torn.extend(control_train(4000, 200));
    torn.pop();
    assert_eq!(receive_all(&mut assembler, &torn).len(), 1);
    assert_eq!(receive_all(&mut assembler, &control_train(10, 199 + MAX_REORDER_DATAGRAMS)).len(), 1);
    assert_eq!(assembler.take_losses().incomplete_trains, 0);
    let mut other_lane = control_train(10, 400);
    other_lane[0].0.lane = Lane(2);
    receive_all(&mut assembler, &other_lane);
    assert_eq!(assembler.take_losses().incomplete_trains, 0, "another lane says nothing about this one");
    receive_all(&mut assembler, &control_train(10, 50));
    assert_eq!(assembler.take_losses().incomplete_trains, 0, "nor does a late train");
    receive_all(&mut assembler, &control_train(10, 200 + MAX_REORDER_DATAGRAMS));
    assert_eq!(assembler.take_losses().incomplete_trains, 1);
}

#[test]
fn trains_of_many_hosts_whose_chunks_come_in_turns_are_all_put_together() {
    let mut assembler = Assembler::new();
    let trains: Vec<_> = (0..64_u8)
        .map(|lane| {
            let mut datagrams = control_train(4000, 100);
            datagrams.iter_mut().for_each(|(header, _)| header.lane = Lane(lane));
            datagrams
        })
        .collect();
    let in_turns = (0..trains[0].len()).flat_map(|at| trains.iter().map(move |train| &train[at]));
    assert_eq!(receive_all(&mut assembler, in_turns).len(), 64);
    assert_eq!(assembler.take_losses().incomplete_trains, 0);
}

#[test]
fn a_full_pool_gives_up_the_oldest_train() {
    let mut assembler = Assembler::new();
    let torn = |lane: u8| {
        let mut datagrams = control_train(4000, 100);
        for (header, _) in &mut datagrams {
            header.lane = Lane(lane);
        }
        datagrams
    };
    for lane in 0..MAX_ASSEMBLIES as u8 {
        assert_eq!(receive(&mut assembler, &torn(lane)[0]), Ok(vec![]));
    }
    assert_eq!(assembler.take_losses().incomplete_trains, 0);
    assert_eq!(receive(&mut assembler, &torn(100)[0]), Ok(vec![]));
    assert_eq!(assembler.take_losses().incomplete_trains, 1);
    assert_eq!(receive_all(&mut assembler, &torn(1)[1..]).len(), 1, "the second oldest is still there");
    assert_eq!(receive_all(&mut assembler, &torn(0)[1..]).len(), 0, "the oldest is not");
}
