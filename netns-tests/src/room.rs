//! Room on the machine for labs: two at a time, or one that has the machine for itself.
//!
//! Each place is a file lock, so labs of several processes wait for each other as well, and a lab that was killed gives its
//! place back.
//!
//! INVARIANT: no two live labs have the same place.
//! INVARIANT: who waits for the second place holds the first, and who holds the second waits for none: nobody waits for ever.

use std::{
    fs::{File, TryLockError},
    thread,
    time::Duration,
};

/// Most labs wait most of the time; two of them leave a third of two cores idle.
const PLACES: [char; 2] = ['a', 'b'];
/// How often one looks who wants any place, while none is free.
const LOOK: Duration = Duration::from_millis(50);

/// What a lab holds as long as it lives.
#[derive(Debug)]
pub(crate) struct Room {
    place: char,
    _locks: Vec<File>,
}

impl Room {
    /// Waits for any place.
    #[track_caller]
    pub(crate) fn beside_another() -> Self {
        loop {
            for place in PLACES {
                let file = file_of(place);
                match file.try_lock() {
                    Ok(()) => return Self { place, _locks: vec![file] },
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path_of(place)),
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for all places.
    #[track_caller]
    pub(crate) fn alone() -> Self {
        let locked = |place| {
            let file = file_of(place);
            file.lock().unwrap_or_else(|error| panic!("cannot lock {}: {error}", path_of(place)));
            file
        };
        Self { place: PLACES[0], _locks: PLACES.map(locked).into() }
    }

    /// A letter that no other live lab has.
    pub(crate) fn place(&self) -> char {
        self.place
    }
}

fn path_of(place: char) -> String {
    format!("/run/lock/weaved-lab-{place}.lock")
}

#[track_caller]
fn file_of(place: char) -> File {
    let file = File::options().create(true).truncate(false).write(true).open(path_of(place));
    file.unwrap_or_else(|error| panic!("cannot open {}: {error}", path_of(place)))
}
